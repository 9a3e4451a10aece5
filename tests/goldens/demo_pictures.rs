//! The built-in model's pictures against diffusers' from the same checkpoint.
//!
//! `make_demo.py` makes the goldens again when the weights change.

use diffusion::{ImageSize, Interrupt, Limits, ModelCard, Pipeline, RequestDraft};
use models::{AnyPipeline, Checkpoint, LoadOptions};

use crate::compare::{Golden, committed_goldens};
use crate::qwen_image::request;

fn model() -> AnyPipeline {
    let checkpoint = Checkpoint::Embedded(demo::FILES.iter().map(|file| (file.path, file.bytes)).collect());
    models::load(&checkpoint, &LoadOptions::default(), &|_, _, _| ()).unwrap()
}

#[test]
fn latents_and_pictures_are_diffusers() {
    let mut model = model();
    for golden in Golden::all_in(committed_goldens().join("models"), "demo.manifest.json", "demo.") {
        let mut state = model.prepare(&request(&golden, 0), &Interrupt::default()).unwrap();
        golden.check("latents.init", 0, state.latents(), 1e-6);
        for step in 0..golden.run.kw.num_inference_steps {
            model.step(&mut [&mut state], &Interrupt::default()).unwrap();
            golden.check(&format!("step.{step}.latents"), 0, state.latents(), 1e-3);
        }
        golden.check_picture(0, &model.decode(state, &Interrupt::default()).unwrap().pixels);
    }
}

#[test]
fn a_size_between_tokens_is_the_middle_of_the_next_larger_one() {
    let mut model = model();
    // Without native sizes the model generates any size.
    let card = ModelCard { native_sizes: Vec::new(), ..model.card().clone() };
    let mut picture = |width, height| {
        let size = Some(ImageSize { width, height });
        let draft = RequestDraft { prompt: "a fox".into(), size, num_inference_steps: Some(2), ..Default::default() };
        let requests = draft.build(&card, &Limits::default(), || 7).unwrap();
        let mut state = model.prepare(&requests[0], &Interrupt::default()).unwrap();
        (0..2).for_each(|_| drop(model.step(&mut [&mut state], &Interrupt::default()).unwrap()));
        let image = model.decode(state, &Interrupt::default()).unwrap();
        assert_eq!(image.size, ImageSize { width, height });
        image.pixels
    };
    let (cut, whole) = (picture(102, 70), picture(112, 80));
    for (y, row) in cut.chunks_exact(102 * 3).enumerate() {
        assert_eq!(row, &whole[((y + 5) * 112 + 5) * 3..][..102 * 3], "row {y}");
    }
}
