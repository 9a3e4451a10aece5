//! The tiny editing checkpoints, small pictures for them, and requests to edit these.

use std::sync::Arc;

use diffusion::{ImageRequest, ImageSize, InputImage, Interrupt, Mask, Pipeline, RgbImage, Sampler, SamplingParams};
use models::{AnyPipeline, Checkpoint, KeptBytes, LoadOptions, Overrides, RequestState, randn};

use crate::compare::changed_checkpoint;
use crate::{flux2_klein_pipeline, qwen_image_edit_pipeline};

/// Loads FLUX.2-klein's base model, which is guided, with `encodings` bytes for cached encodings.
pub fn klein(encodings: usize) -> AnyPipeline {
    let changed =
        changed_checkpoint(&flux2_klein_pipeline::folder(), &[("model_index.json", "is_distilled", false.into())]);
    let overrides = Overrides { max_sequence_length: Some(64), ..Overrides::default() };
    let kept = KeptBytes { encodings, ..KeptBytes::default() };
    let options = LoadOptions { kept, overrides, ..LoadOptions::default() };
    models::load(&Checkpoint::open(changed.path()).unwrap(), &options, &|_, _, _| ()).unwrap()
}

/// Loads Qwen-Image-Edit-2509 with an edit area at which pictures of 128x64 or 96x96 pixels keep their size.
pub fn qwen(encodings: usize) -> AnyPipeline {
    let overrides = Overrides { edit_area: Some(96 * 96), condition_area: Some(112 * 112), ..Overrides::default() };
    let kept = KeptBytes { encodings, ..KeptBytes::default() };
    let options = LoadOptions { kept, overrides, ..LoadOptions::default() };
    let checkpoint = Checkpoint::open(qwen_image_edit_pipeline::folder()).unwrap();
    models::load(&checkpoint, &options, &|_, _, _| ()).unwrap()
}

/// Bytes that are enough for all encodings of a test.
pub const PLENTY: usize = 64 << 20;

pub fn size(width: usize, height: usize) -> ImageSize {
    ImageSize { width, height }
}

/// A picture of coarse noise, different for every seed.
pub fn picture(seed: u64, size: ImageSize) -> InputImage {
    let levels = randn(seed, 64 * 3);
    let byte = |x: usize, y: usize, channel: usize| {
        let cell = (y * 8 / size.height) * 8 + x * 8 / size.width;
        (128.0 + 60.0 * levels[cell * 3 + channel]).clamp(0.0, 255.0) as u8
    };
    let pixels = (0..size.height).flat_map(|y| (0..size.width).map(move |x| (x, y)));
    let pixels = pixels.flat_map(|(x, y)| [byte(x, y, 0), byte(x, y, 1), byte(x, y, 2)]).collect();
    InputImage::new(RgbImage { size, pixels })
}

/// A mask of `size` under which the columns from `from` on may change.
pub fn mask_from(from: usize, size: ImageSize) -> Arc<Mask> {
    let editable = (0..size.height).flat_map(|_| (0..size.width).map(|x| if x >= from { 255 } else { 0 }));
    Arc::new(Mask { size, editable: editable.collect() })
}

/// An edit of `pictures`, which may be empty, in three steps without guidance or cache.
pub fn edit(prompt: &str, pictures: &[InputImage], size: ImageSize) -> ImageRequest {
    ImageRequest {
        prompt: prompt.into(),
        negative_prompt: None,
        input_images: pictures.into(),
        mask: None,
        params: SamplingParams {
            size,
            num_inference_steps: 3,
            sampler: Sampler::Euler,
            guidance: diffusion::Guidance::None,
            seed: 7,
        },
        fit: None,
        previews: None,
        cache: None,
        held: Default::default(),
    }
}

/// Adds guidance away from `negative_prompt` to `request`, of the kind that `model` has.
pub fn guided(model: &AnyPipeline, request: ImageRequest, scale: f64, negative_prompt: &str) -> ImageRequest {
    let guidance = model.card().guidance.guidance(scale, true);
    let params = SamplingParams { guidance, ..request.params };
    ImageRequest { negative_prompt: Some(negative_prompt.into()), params, ..request }
}

/// Runs all steps of a request, alone.
pub fn finished(model: &mut AnyPipeline, request: &ImageRequest) -> RequestState {
    let mut state = model.prepare(request, &Interrupt::default()).unwrap();
    for _ in 0..request.params.num_inference_steps {
        model.step(&mut [&mut state], &Interrupt::default()).unwrap();
    }
    state
}

pub fn latents(state: &RequestState) -> Vec<f32> {
    state.latents().flatten_all().unwrap().to_vec1().unwrap()
}
