//! Final latents on the GPU compared with diffusers' in f32. In f32 they are equal up to rounding. In bf16 their
//! distance is at most twice that of torch's bf16 from its f32, which the goldens record.

use candle_core::{DType, Device, Tensor};
use diffusion::{ImageSize, Interrupt, Limits, Pipeline, RequestDraft};
use models::{Checkpoint, LoadOptions, Overrides, load};
use serde_json::Value;

use crate::runs::{GPU, alone, goldens};

const CASES: [(&str, &str); 3] =
    [("qwen-image", "t2i_cfg"), ("qwen-image", "t2i_nocfg"), ("flux2-klein", "t2i_distilled")];

fn manifest() -> Value {
    serde_json::from_slice(&std::fs::read(goldens().join("models/goldens/manifest.json")).unwrap()).unwrap()
}

/// The relative L2 distance of the final latents from the recorded ones, from the same noise.
fn distance(manifest: &Value, model: &str, case: &str, dtype: DType) -> f64 {
    let case = format!("{model}.{case}");
    let kw = &manifest[&case]["kw"];
    let number = |key: &str| kw[key].as_u64().map(|number| number as usize);
    let overrides = Overrides { max_sequence_length: number("max_sequence_length"), ..Overrides::default() };
    let options = LoadOptions { dtype, device: GPU.open().unwrap(), overrides, ..LoadOptions::default() };
    let checkpoint = Checkpoint::open(goldens().join("models").join(model)).unwrap();
    let mut pipeline = load(&checkpoint, &options, &|_, _, _| ()).unwrap();
    let draft = RequestDraft {
        prompt: kw["prompt"].as_str().unwrap().into(),
        negative_prompt: kw["negative_prompt"].as_str().map(str::to_owned),
        size: Some(ImageSize { width: number("width").unwrap(), height: number("height").unwrap() }),
        num_inference_steps: kw["num_inference_steps"].as_i64(),
        true_cfg_scale: kw["true_cfg_scale"].as_f64(),
        seed: Some(0),
        ..RequestDraft::default()
    };
    let request = draft.build(pipeline.card(), &Limits::default(), || 0).unwrap().remove(0);
    let file = goldens().join(format!("models/goldens/{case}.safetensors"));
    let recorded = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
    let last = request.params.num_inference_steps - 1;
    let of = |name: &str| recorded[name].get(0).unwrap();
    let state = pipeline.prepare(&request, &Interrupt::default()).unwrap();
    let mut state = state.with_latents(of("latents.init").to_device(&options.device).unwrap());
    for _ in 0..=last {
        pipeline.step(&mut [&mut state], &Interrupt::default()).unwrap();
    }
    let ours = state.latents().to_device(&Device::Cpu).unwrap();
    let theirs = of(&format!("step.{last}.latents"));
    let length = |t: &Tensor| f64::from(t.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap()).sqrt();
    length(&(ours - &theirs).unwrap()) / length(&theirs)
}

#[test]
fn latents_in_f32_are_diffusers() {
    let (_alone, manifest) = (alone(), manifest());
    for (model, case) in CASES {
        let distance = distance(&manifest, model, case, DType::F32);
        println!("parity: {model} {case} f32: {distance:.2e} from diffusers, at most 1e-4");
        assert!(distance <= 1e-4, "{model} {case}: {distance}");
    }
}

#[test]
fn latents_in_bf16_are_as_near_as_torchs() {
    let (_alone, manifest) = (alone(), manifest());
    for (model, case) in CASES {
        let drift = manifest[format!("{model}.bf16_vs_f32_rel_l2")].as_f64().unwrap();
        let distance = distance(&manifest, model, case, DType::BF16);
        println!("parity: {model} {case} bf16: {distance:.2e} from diffusers' f32, at most {:.2e}", 2.0 * drift);
        assert!(distance <= 2.0 * drift, "{model} {case}: {distance}, and torch's own is {drift}");
    }
}
