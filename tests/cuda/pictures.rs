//! Whole pictures on the GPU, from text encoder to VAE, compared with the CPU's.

use diffusion::RgbImage;
use omni::{DeviceName, Dtype, Omni, OmniDiffusionSamplingParams};

use crate::runs::{GPU, MODELS, alone, checkpoint, load, load_fp8, one_row, picture};

/// Reuses three of six steps, whatever the numbers are: rounding must not change which steps are compared.
pub const EVERY_SECOND: &str = r#"{"steps_computation_mask": [1, 1, 0, 1, 0, 0], "scm_steps_policy": "static"}"#;
/// Decides on reuse by numbers that are read back.
pub const BY_DIFFERENCE: &str = r#"{"max_warmup_steps": 2, "residual_diff_threshold": 1}"#;
/// Forecasts the steps that a mask reuses.
const FORECAST: &str =
    r#"{"steps_computation_mask": [1, 1, 1, 0, 1, 0], "scm_steps_policy": "static", "enable_taylorseer": true}"#;

/// The difference of two pictures, in levels of 255.
#[derive(Debug)]
pub struct Apart {
    pub most: u8,
    pub mean: f64,
}

pub fn apart(a: &RgbImage, b: &RgbImage) -> Apart {
    assert_eq!(a.size, b.size);
    let apart = a.pixels.iter().zip(&b.pixels).map(|(a, b)| a.abs_diff(*b));
    let sum: f64 = apart.clone().map(f64::from).sum();
    Apart { most: apart.max().unwrap(), mean: sum / a.pixels.len() as f64 }
}

/// Compares a picture by the CPU in f32 with the same by the GPU in `dtype`. Both must have reused the same steps.
fn compare(model: &str, dtype: Dtype, cache: Option<&str>, params: &OmniDiffusionSamplingParams) -> Apart {
    let made = |device, dtype| picture(&mut load(model, device, dtype, cache), params.clone());
    let (ours, our_steps) = made(GPU, dtype);
    let (theirs, their_steps) = made(DeviceName::Cpu, Dtype::F32);
    let reused = |steps: &[diffusion::StepReport]| -> Vec<_> {
        steps.iter().map(|step| step.runs.iter().map(|run| run.reused).collect::<Vec<_>>()).collect()
    };
    assert_eq!(reused(&our_steps), reused(&their_steps), "{model} {dtype:?} {cache:?}");
    let has_reused = reused(&our_steps).iter().flatten().any(|reused| *reused);
    assert_eq!(has_reused, cache.is_some(), "{model} {cache:?}");
    let levels = theirs.pixels.iter().max().unwrap() - theirs.pixels.iter().min().unwrap();
    assert!(levels > 50, "{model}: a picture of {levels} levels shows no difference");
    let apart = apart(&ours, &theirs);
    println!("{model} {dtype:?} {cache:?}: {apart:?}");
    apart
}

pub fn with_guidance() -> OmniDiffusionSamplingParams {
    let params = OmniDiffusionSamplingParams { negative_prompt: Some("rain".into()), ..one_row(6) };
    OmniDiffusionSamplingParams { true_cfg_scale: Some(4.0), ..params }
}

#[test]
fn pictures_in_f32_are_the_cpus_to_a_level() {
    let _alone = alone();
    for model in MODELS {
        for cache in [None, Some(EVERY_SECOND), Some(BY_DIFFERENCE), Some(FORECAST)] {
            let apart = compare(model, Dtype::F32, cache, &one_row(6));
            assert!(apart.most <= 1, "{model} {cache:?}: {apart:?}");
        }
    }
    let apart = compare("qwen-image", Dtype::F32, Some(EVERY_SECOND), &with_guidance());
    assert!(apart.most <= 1, "two rows a step: {apart:?}");
}

#[test]
fn pictures_in_bf16_are_near_the_cpus_of_f32() {
    let _alone = alone();
    for model in MODELS {
        for cache in [None, Some(EVERY_SECOND), Some(FORECAST)] {
            let apart = compare(model, Dtype::Bf16, cache, &one_row(6));
            assert!(apart.mean <= 1.5 && apart.most <= 24, "{model} {cache:?}: {apart:?}");
        }
    }
    let apart = compare("qwen-image", Dtype::Bf16, None, &with_guidance());
    assert!(apart.mean <= 1.5 && apart.most <= 24, "two rows a step: {apart:?}");
}

/// Compares with the CPU's emulation. A sum in another order may round a number of the next layer the other way, so f32
/// comes no nearer than this.
#[test]
fn pictures_in_fp8_are_near_those_of_the_emulation() {
    let _alone = alone();
    for (model, dtype) in MODELS.iter().flat_map(|model| [(model, Dtype::F32), (model, Dtype::Bf16)]) {
        let made = |device, dtype| picture(&mut load_fp8(model, device, dtype), one_row(6)).0;
        let (ours, theirs) = (made(GPU, dtype), made(DeviceName::Cpu, Dtype::F32));
        let plain = picture(&mut load(model, DeviceName::Cpu, Dtype::F32, None), one_row(6)).0;
        let (apart, rounded) = (apart(&ours, &theirs), apart(&plain, &theirs));
        println!("{model} fp8 {dtype:?}: {apart:?}; the emulation beside f32: {rounded:?}");
        assert!(rounded.mean > 0.05, "{model}: nothing was rounded: {rounded:?}");
        assert!(apart.mean <= 1.5 && apart.most <= 24, "{model} {dtype:?}: {apart:?}");
        let is_bf16 = dtype == Dtype::Bf16;
        assert!(is_bf16 || apart.mean < 0.7 * rounded.mean, "{model}: as far as without rounding: {apart:?}");
    }
}

#[test]
fn two_pictures_at_once_are_those_of_each_alone() {
    let _alone = alone();
    let mut omni = Omni::builder().model(checkpoint("qwen-image")).device(GPU).dtype(Dtype::F32).build().unwrap();
    let both = OmniDiffusionSamplingParams { num_outputs_per_prompt: Some(2), ..one_row(3) };
    let together = omni.generate("a fox", both).unwrap();
    for image in together {
        let alone = OmniDiffusionSamplingParams { seed: Some(image.seed as i64), ..one_row(3) };
        let alone = omni.generate("a fox", alone).unwrap();
        assert_eq!(image.image.pixels, alone[0].image.pixels, "seed {}", image.seed);
    }
}
