//! Samplers against diffusers: along three schedules with a fake velocity, and with the tiny Qwen-Image.
//!
//! `make_samplers.py` made the recorded files.

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{Device, Tensor};
use diffusion::{FlowMatchConfig, Interrupt, Pipeline, Sampler, Sigmas, empirical_mu};
use models::{RequestState, Solver};

use crate::compare::{Golden, close, goldens, sampler};
use crate::qwen_image::{Model, model, request};

/// Tolerance, relative to the largest number.
const TOLERANCE: f64 = 1e-4;
/// Image tokens of the recorded schedules.
const TOKENS: usize = 64;

fn folder() -> PathBuf {
    goldens().join("samplers")
}

/// Returns the schedule that `make_samplers.py` records under `name`, with `steps` steps.
fn sigmas(name: &str, steps: usize) -> Sigmas {
    let dynamic = FlowMatchConfig { use_dynamic_shifting: true, ..FlowMatchConfig::default() };
    match name {
        "qwen-image" => {
            let config =
                FlowMatchConfig { max_shift: 0.9, max_image_seq_len: 8192, shift_terminal: Some(0.02), ..dynamic };
            Sigmas::new(&config, steps, TOKENS)
        }
        "flux2-klein" => Sigmas::with_mu(&dynamic, steps, empirical_mu(TOKENS, steps)),
        "fixed" => Sigmas::new(&FlowMatchConfig { shift: 3.0, ..FlowMatchConfig::default() }, steps, TOKENS),
        other => panic!("no schedule {other}"),
    }
}

/// The same as `fake_velocity` in `make_samplers.py`.
fn fake_velocity(x: &Tensor, sigma: f32) -> Tensor {
    let sigma = f64::from(sigma);
    let velocity = || (((x * 2.0)?.tanh()? * (1.2 - sigma))? + sigma * sigma * 0.5)? + (x * 0.3)?;
    velocity().unwrap()
}

#[test]
fn every_step_of_every_schedule() {
    let tensors: HashMap<_, _> =
        candle_core::safetensors::load(folder().join("fake_velocity.safetensors"), &Device::Cpu).unwrap();
    let mut seen = 0;
    for (name, theirs) in tensors.iter().filter(|(name, _)| *name != "latents") {
        let [of, schedule, steps] = name.split('.').collect::<Vec<_>>()[..] else { panic!("{name}") };
        let sigmas = sigmas(schedule, steps.parse().unwrap());
        if of == "sigmas" {
            close(name, &Tensor::new(sigmas.as_slice(), &Device::Cpu).unwrap(), theirs, 1e-6);
            continue;
        }
        let mut solver = Solver::new(sampler(of));
        let mut latents = tensors["latents"].get(0).unwrap();
        let evaluations = solver.sampler().num_evaluations(sigmas.num_inference_steps());
        assert_eq!(theirs.dim(0).unwrap(), evaluations, "{name}");
        for evaluation in 0..evaluations {
            let sigma = sigmas.sigma(solver.sampler().level(evaluation));
            latents = solver.advance(&sigmas, evaluation, &latents, &fake_velocity(&latents, sigma)).unwrap();
            close(&format!("{name}, {evaluation}"), &latents, &theirs.get(evaluation).unwrap(), TOLERANCE);
        }
        seen += 1;
    }
    assert_eq!(seen, 3 * 3 * 8 - 3, "a single step of Qwen-Image's schedule has no numbers in diffusers");
}

/// Prepares the recorded runs, and one with Euler.
fn states(model: &mut Model) -> (Vec<Golden>, Vec<RequestState>) {
    let cases = Golden::all(folder(), "qwen-image.");
    assert_eq!(cases.len(), Sampler::NAMED.len() - 1);
    let mut requests: Vec<_> = cases.iter().map(|golden| request(golden, 0)).collect();
    let mut by_euler = requests[0].clone();
    by_euler.params.sampler = Sampler::Euler;
    requests.push(by_euler);
    let prepare = |request| model.prepare(request, &Interrupt::default()).unwrap();
    let states = requests.iter().map(prepare).collect();
    (cases, states)
}

/// Takes a step of all unfinished requests; returns whether there were any.
fn step(model: &mut Model, states: &mut [RequestState]) -> bool {
    let mut batch: Vec<_> = states.iter_mut().filter(|state| state.step_index() < state.num_steps()).collect();
    if !batch.is_empty() {
        model.step(&mut batch, &Interrupt::default()).unwrap();
    }
    !batch.is_empty()
}

fn numbers(state: &RequestState) -> Vec<f32> {
    state.latents().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn requests_of_all_samplers_step_together() {
    let mut model = model();
    let (cases, mut states) = states(&mut model);
    for (golden, state) in cases.iter().zip(&states) {
        golden.check("latents.init", 0, state.latents(), 1e-6);
        let sigmas = Tensor::new(state.sigmas().as_slice(), &Device::Cpu).unwrap();
        close(&format!("{} sigmas", golden.case), &sigmas, golden.tensor("sched.sigmas"), 1e-6);
    }
    let mut alone = states.clone();
    while step(&mut model, &mut states) {
        for (golden, state) in cases.iter().zip(&states) {
            golden.check(&format!("step.{}.latents", state.step_index() - 1), 0, state.latents(), TOLERANCE);
        }
    }
    let steps: Vec<_> = states.iter().map(RequestState::num_steps).collect();
    assert_eq!(steps.iter().sum::<usize>(), 6 + 11 + 6 + 6);
    for (state, together) in alone.iter_mut().zip(&states) {
        while step(&mut model, std::slice::from_mut(state)) {}
        assert_eq!(numbers(state), numbers(together), "{:?} alone", state.sampler());
        assert!(state.clean_latents().is_some());
    }
}

#[test]
fn steps_that_are_taken_back_are_taken_again() {
    let mut model = model();
    let (_, mut states) = states(&mut model);
    let mut straight = states.clone();
    while step(&mut model, &mut straight) {}
    loop {
        let before = states.clone();
        if !step(&mut model, &mut states) {
            break;
        }
        // Like a worker that ran out of memory: it returns to the saved states and repeats the step.
        step(&mut model, &mut states);
        states = before;
        step(&mut model, &mut states);
    }
    for (state, straight) in states.iter().zip(&straight) {
        assert_eq!(numbers(state), numbers(straight), "{:?}", state.sampler());
    }
}
