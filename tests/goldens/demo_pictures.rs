//! The built-in model's pictures against diffusers' from the same checkpoint.
//!
//! `make_demo.py` makes the goldens again when the weights change.

use diffusion::Pipeline;
use models::{Checkpoint, LoadOptions};

use crate::compare::{Golden, committed_goldens};
use crate::qwen_image::request;

#[test]
fn latents_and_pictures_are_diffusers() {
    let checkpoint = Checkpoint::Embedded(demo::FILES.iter().map(|file| (file.path, file.bytes)).collect());
    let options = LoadOptions::default();
    let mut model = models::load(&checkpoint, &options, &|_, _, _| ()).unwrap();
    for golden in Golden::all_in(committed_goldens().join("models"), "demo.manifest.json", "demo.") {
        let mut state = model.prepare(&request(&golden, 0)).unwrap();
        golden.check("latents.init", 0, state.latents(), 1e-6);
        for step in 0..golden.run.kw.num_inference_steps {
            model.step(&mut [&mut state]).unwrap();
            golden.check(&format!("step.{step}.latents"), 0, state.latents(), 1e-3);
        }
        golden.check_picture(0, &model.decode(state).unwrap().pixels);
    }
}
