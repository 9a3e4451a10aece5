//! Interrupts during work on a large picture: 2048x2048 with the tiny checkpoint. One step takes seconds, and so does
//! the attention in the middle of the VAE, over 65,536 positions.
//!
//! An observer counts the checks of the interrupt and sets it at a given one. The place where a stage is cut therefore
//! does not depend on the machine's speed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use diffusion::{
    Guidance, ImageRequest, ImageSize, InputImage, Interrupt, Pipeline, PipelineError, PreviewMethod, PreviewTimes,
    Previews, RgbImage, Sampler, SamplingParams,
};
use models::{AnyPipeline, Checkpoint, LoadOptions, RequestState};

use crate::{qwen_image, qwen_image_edit_pipeline};

/// Far less than the rest of any stage cut here, and far more than one tile takes on a busy machine.
const PROMPT: Duration = Duration::from_secs(2);

fn size(side: usize) -> ImageSize {
    ImageSize { width: side, height: side }
}

fn request(side: usize) -> ImageRequest {
    ImageRequest {
        prompt: "a fox".into(),
        negative_prompt: None,
        input_images: Default::default(),
        mask: None,
        fit: None,
        params: SamplingParams {
            size: size(side),
            num_inference_steps: 2,
            sampler: Sampler::Euler,
            guidance: Guidance::None,
            seed: 7,
        },
        previews: Some(Previews { times: PreviewTimes::Interval(1), method: PreviewMethod::Vae }),
        cache: None,
        held: Default::default(),
    }
}

/// Runs `stage` and interrupts it at check number `at`. Asserts that the stage had not finished by then, that it
/// reports the interrupt, and that it ends soon after.
#[track_caller]
fn cut<R>(name: &str, at: usize, stage: impl FnOnce(&Interrupt) -> Result<R, PipelineError>) {
    let (interrupt, looks) = (Interrupt::default(), Arc::new(AtomicUsize::new(0)));
    let set_at = Arc::new(std::sync::OnceLock::new());
    let observe = {
        let (interrupt, looks, set_at) = (interrupt.clone(), looks.clone(), set_at.clone());
        move || {
            if looks.fetch_add(1, Ordering::Relaxed) + 1 == at {
                set_at.get_or_init(Instant::now);
                interrupt.set();
            }
            false
        }
    };
    let result = kernels::interruptible(observe, || stage(&interrupt));
    let ended = Instant::now();
    let Some(&set_at) = set_at.get() else {
        panic!("{name} was done after {} looks, before look {at}", looks.load(Ordering::Relaxed));
    };
    println!("{name}, cut at look {at}: back after {:?}", ended - set_at);
    assert!(matches!(result.map(|_| ()), Err(PipelineError::Interrupted)), "{name} at look {at}");
    assert!(ended - set_at < PROMPT, "{name} went on for {:?} after look {at}", ended - set_at);
}

#[test]
fn a_step_ends_between_blocks_and_inside_of_its_operations() {
    let mut model = qwen_image::model();
    let state = model.prepare(&request(2048), &Interrupt::default()).unwrap();
    // At the start, in the first linear layers, deep in the first attention (2 heads of 342 tiles each), in a later
    // block.
    for at in [1, 60, 700, 2500] {
        cut("a step", at, |interrupt| model.step(&mut [&mut state.clone()], interrupt));
    }
}

#[test]
fn a_decoding_and_a_preview_end_inside_of_the_vae() {
    let mut model = qwen_image::model();
    let state = model.prepare(&request(2048), &Interrupt::default()).unwrap();
    // In the first convolutions, and in the attention's 1,366 tiles.
    for at in [3, 600] {
        cut("a decoding", at, |interrupt| model.decode(state.clone(), interrupt));
    }
    let mut small = model.prepare(&request(32), &Interrupt::default()).unwrap();
    model.step(&mut [&mut small], &Interrupt::default()).unwrap();
    cut("a preview", 5, |interrupt| model.preview(&small, PreviewMethod::Vae, interrupt));
}

fn edits() -> AnyPipeline {
    let checkpoint = Checkpoint::open(qwen_image_edit_pipeline::folder()).unwrap();
    models::load(&checkpoint, &LoadOptions::default(), &|_, _, _| ()).unwrap()
}

#[test]
fn an_encoding_ends_in_the_text_encoder_the_vision_tower_the_resizing_and_the_vae() {
    let mut model = edits();
    let pixels = (0..1500 * 1500 * 3).map(|i| (i * 7 % 251) as u8).collect();
    let picture = InputImage::new(RgbImage { size: size(1500), pixels });
    let request = ImageRequest { input_images: [picture].into(), ..request(64) };
    for at in [1, 1000, 3000, 4000, 4500] {
        cut("an encoding", at, |interrupt| model.prepare(&request, interrupt));
    }
    // No half-done encoding is cached for the next request.
    let latents = |model: &mut AnyPipeline| {
        let mut state: RequestState = model.prepare(&request, &Interrupt::default()).unwrap();
        model.step(&mut [&mut state], &Interrupt::default()).unwrap();
        state.latents().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    assert!(latents(&mut model) == latents(&mut edits()));
}
