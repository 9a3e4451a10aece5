//! Pictures of the built-in model in products of fewer bits beside those in f32.

use candle_core::DType;
use diffusion::{Interrupt, Limits, Pipeline, RequestDraft};
use models::{AnyPipeline, Checkpoint, LoadOptions, Quantization};

const PROMPTS: [&str; 8] = [
    "a dog on a blue background",
    "a small cat on a red background",
    "a fox on the right on a black background",
    "a large panda on a yellow background",
    "a frog at the top on a brown background",
    "a penguin at the bottom on a sky blue background",
    "a unicorn on a pink background",
    "an octopus on a grey background",
];

fn model(dtype: DType, quantization: Option<Quantization>) -> AnyPipeline {
    let checkpoint = Checkpoint::Embedded(demo::FILES.iter().map(|file| (file.path, file.bytes)).collect());
    models::load(&checkpoint, &LoadOptions { dtype, quantization, ..LoadOptions::default() }, &|_, _, _| ()).unwrap()
}

fn picture(model: &mut AnyPipeline, prompt: &str) -> Vec<u8> {
    let draft = RequestDraft { prompt: prompt.into(), num_inference_steps: Some(20), ..Default::default() };
    let requests = draft.build(model.card(), &Limits::default(), || 7).unwrap();
    let mut state = model.prepare(&requests[0], &Interrupt::default()).unwrap();
    (0..20).for_each(|_| drop(model.step(&mut [&mut state], &Interrupt::default()).unwrap()));
    model.decode(state, &Interrupt::default()).unwrap().pixels
}

/// Peak signal-to-noise ratio in dB.
fn psnr(reference: &[u8], picture: &[u8]) -> f64 {
    let squares = reference.iter().zip(picture).map(|(&a, &b)| f64::from(a.abs_diff(b)).powi(2)).sum::<f64>();
    10.0 * (255.0 * 255.0 * reference.len() as f64 / squares).log10()
}

/// The mean and the least PSNR of pictures against those in f32.
fn psnrs(name: &str, mut model: AnyPipeline) -> (f64, f64) {
    let mut in_f32 = self::model(DType::F32, None);
    let psnrs = PROMPTS.map(|prompt| {
        let psnr = psnr(&picture(&mut in_f32, prompt), &picture(&mut model, prompt));
        println!("{psnr:.1} dB: {prompt}");
        psnr
    });
    let (mean, least) = (psnrs.iter().sum::<f64>() / psnrs.len() as f64, psnrs.into_iter().fold(f64::MAX, f64::min));
    println!("PSNR of {name} against f32 on {} prompts: mean {mean:.1} dB, least {least:.1} dB", psnrs.len());
    assert!(least.is_finite(), "the pictures are equal: nothing was rounded");
    (mean, least)
}

#[test]
fn eight_bit_pictures_are_close_to_those_in_f32() {
    let (mean, least) = psnrs("int8", model(DType::F32, Some(Quantization::Int8)));
    assert!(mean > 46.0 && least > 40.0, "mean {mean:.1} dB, least {least:.1} dB");
}

/// Rounded weights, and on a processor that gains by it rounded rows and attentions too.
#[test]
fn pictures_in_bf16_are_close_to_those_in_f32() {
    let (mean, least) = psnrs("bf16", model(DType::BF16, None));
    assert!(mean > 55.0 && least > 50.0, "mean {mean:.1} dB, least {least:.1} dB");
}
