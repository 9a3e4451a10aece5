//! The VAE on the GPU: its device memory, input pictures of edits, and tiles.

use std::sync::Arc;

use diffusion::{ImageRequest, ImageSize, InputImage, Interrupt, Limits, Pipeline, RequestDraft, RgbImage};
use models::{AnyPipeline, RequestState};
use omni::{DeviceName, Dtype, InputPictures, Omni, OmniInput, TilingPolicy};

use crate::bounds::over_bound;
use crate::counts::{self, are_counted, most_bytes_held, told};
use crate::pictures::apart;
use crate::runs::{GPU, MODELS, alone, checkpoint, load, one_row};

const SIZE: ImageSize = ImageSize { width: 64, height: 64 };

/// A picture with four different corners.
fn picture() -> InputImage {
    let colour = |at: usize| [at % SIZE.width * 4, at / SIZE.width * 4, at % 11 * 20].map(|level| level as u8);
    InputImage::new(RgbImage { size: SIZE, pixels: (0..SIZE.pixels()).flat_map(colour).collect() })
}

fn request(pipeline: &AnyPipeline, input_images: Arc<[InputImage]>) -> ImageRequest {
    let draft = RequestDraft {
        prompt: "a fox".into(),
        input_images,
        size: Some(SIZE),
        num_inference_steps: Some(1),
        seed: Some(7),
        true_cfg_scale: (pipeline.card().class == "QwenImagePipeline").then_some(1.0),
        ..RequestDraft::default()
    };
    draft.build(pipeline.card(), &Limits::NONE, || 7).unwrap().remove(0)
}

/// The state of a request after its last step.
fn ready_to_decode(pipeline: &mut AnyPipeline, request: &ImageRequest) -> RequestState {
    let mut state = pipeline.prepare(request, &Interrupt::default()).unwrap();
    pipeline.step(&mut [&mut state], &Interrupt::default()).unwrap();
    state
}

#[test]
fn decoding_asks_no_more_of_the_driver_than_its_bound() {
    let _alone = alone();
    if !are_counted() {
        return;
    }
    let mut over = Vec::new();
    for model in MODELS {
        let mut pipeline = load(model, GPU, Dtype::Bf16, None).into_pipeline();
        let request = request(&pipeline, Arc::default());
        let mut counted = || {
            let state = ready_to_decode(&mut pipeline, &request);
            counts::of(|| drop(pipeline.decode(state, &Interrupt::default()).unwrap()))
        };
        // Kernels are loaded at their first launch.
        counted();
        let found = counted();
        println!("counts: {model}, bf16, decoding: {}", told(&found));
        over.extend(over_bound(&format!("{model}, decoding"), &found));
    }
    assert!(over.is_empty(), "{}", over.join("\n"));
}

/// With im2col columns of its pictures, as candle's convolutions make them, it would be more than twice as much.
#[test]
fn decoding_holds_what_its_estimate_says() {
    let _alone = alone();
    if !are_counted() {
        return;
    }
    for (model, dtype) in MODELS.iter().flat_map(|model| [(model, Dtype::F32), (model, Dtype::Bf16)]) {
        let mut pipeline = load(model, GPU, dtype, None).into_pipeline();
        let request = request(&pipeline, Arc::default());
        let said = pipeline.estimator()(&request).memory.decode;
        let mut held = || {
            let state = ready_to_decode(&mut pipeline, &request);
            most_bytes_held(|| drop(pipeline.decode(state, &Interrupt::default()).unwrap()))
        };
        // Kernels are loaded at their first launch.
        held();
        let held = held();
        println!("{model} {dtype:?}: {said} bytes said, {held} held");
        assert!(held <= said + said / 4 && held >= said / 3, "{model} {dtype:?}: {said} bytes said, {held} held");
    }
}

/// Its encoder has convolutions with stride 2.
#[test]
fn an_edit_is_the_cpus() {
    let _alone = alone();
    let made = |device, dtype| {
        let pictures = InputPictures { images: [picture()].into(), mask: None };
        let input = OmniInput { prompt: "a fox".into(), pictures };
        load("flux2-klein", device, dtype, None).generate(input, one_row(2)).unwrap().remove(0).image
    };
    let cpu = made(DeviceName::Cpu, Dtype::F32);
    let f32_apart = apart(&made(GPU, Dtype::F32), &cpu);
    assert!(f32_apart.most <= 1, "f32: {f32_apart:?}");
    let bf16_apart = apart(&made(GPU, Dtype::Bf16), &cpu);
    assert!(bf16_apart.mean <= 1.5 && bf16_apart.most <= 24, "bf16: {bf16_apart:?}");
}

#[test]
fn a_picture_in_tiles_is_the_cpus() {
    let _alone = alone();
    let made = |device, vae_tiling| {
        let builder = Omni::builder().model(checkpoint("qwen-image")).device(device).dtype(Dtype::F32);
        let params = omni::OmniDiffusionSamplingParams { width: Some(272), height: Some(64), ..one_row(1) };
        builder.vae_tiling(vae_tiling).build().unwrap().generate("a fox", params).unwrap().remove(0).image
    };
    let tiles = made(DeviceName::Cpu, TilingPolicy::On);
    assert_ne!(tiles.pixels, made(DeviceName::Cpu, TilingPolicy::Auto).pixels, "auto decodes whole on a CPU");
    let apart = apart(&made(GPU, TilingPolicy::On), &tiles);
    assert!(apart.most <= 1, "{apart:?}");
}
