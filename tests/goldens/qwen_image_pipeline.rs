//! The whole Qwen-Image pipeline against diffusers: noise, schedule, every step, the picture.

use candle_core::{Device, Tensor};
use diffusion::{Interrupt, Pipeline};
use models::randn;

use crate::compare::{close, goldens};
use crate::qwen_image::{cases, model, request};

#[test]
fn noise_is_torchs() {
    let file = goldens().join("models/goldens/torch_randn.safetensors");
    for (name, theirs) in candle_core::safetensors::load(file, &Device::Cpu).unwrap() {
        let (seed, n) = name.strip_prefix("randn.seed").unwrap().split_once(".n").unwrap();
        let ours = Tensor::new(randn(seed.parse().unwrap(), n.parse().unwrap()), &Device::Cpu).unwrap();
        close(&name, &ours, &theirs, 1e-6);
    }
}

#[test]
fn noise_of_a_lone_picture_comes_from_its_seed() {
    let mut model = model();
    for golden in cases().iter().filter(|golden| golden.batch_size() == 1) {
        let state = model.prepare(&request(golden, 0), &Interrupt::default()).unwrap();
        golden.check("latents.init", 0, state.latents(), 1e-6);
    }
}

#[test]
fn latents_after_each_step_and_the_picture() {
    let mut model = model();
    for golden in cases() {
        let initial = golden.tensor("latents.init");
        let state = |i| {
            model.prepare(&request(&golden, i), &Interrupt::default()).unwrap().with_latents(initial.get(i).unwrap())
        };
        let mut states: Vec<_> = (0..golden.batch_size()).map(state).collect();
        let sigmas = Tensor::new(states[0].sigmas().as_slice(), &Device::Cpu).unwrap();
        close(&format!("{} sigmas", golden.case), &sigmas, golden.tensor("sched.sigmas"), 1e-6);

        for step in 0..golden.run.kw.num_inference_steps {
            model.step(&mut states.iter_mut().collect::<Vec<_>>(), &Interrupt::default()).unwrap();
            for (i, state) in states.iter().enumerate() {
                golden.check(&format!("step.{step}.latents"), i, state.latents(), 1e-3);
            }
        }
        for (i, state) in states.into_iter().enumerate() {
            golden.check_picture(i, &model.decode(state, &Interrupt::default()).unwrap().pixels);
        }
    }
}
