//! The built-in model's pictures with quantized or bf16 weights, compared with those in f32.

use candle_core::DType;
use diffusion::{Interrupt, Limits, Pipeline, RequestDraft};
use models::{AnyPipeline, Checkpoint, LoadOptions, Quantization};

use crate::compare::committed_goldens;

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

/// A picture's latents after each step, and its pixels.
struct Made {
    latents: Vec<Vec<f32>>,
    pixels: Vec<u8>,
}

fn picture(model: &mut AnyPipeline, prompt: &str) -> Made {
    let draft = RequestDraft { prompt: prompt.into(), num_inference_steps: Some(20), ..Default::default() };
    let requests = draft.build(model.card(), &Limits::default(), || 7).unwrap();
    let mut state = model.prepare(&requests[0], &Interrupt::default()).unwrap();
    let mut step = |_| {
        model.step(&mut [&mut state], &Interrupt::default()).unwrap();
        state.latents().flatten_all().unwrap().to_vec1().unwrap()
    };
    let latents = (0..20).map(&mut step).collect();
    Made { latents, pixels: model.decode(state, &Interrupt::default()).unwrap().pixels }
}

/// Returns the distance of two lists of numbers, relative to the norm of the first.
fn relative_l2(reference: &[f32], given: &[f32]) -> f64 {
    let squares = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(|x| f64::from(x).powi(2)).sum::<f64>();
    let apart = squares(&mut reference.iter().zip(given).map(|(a, b)| a - b));
    (apart / squares(&mut reference.iter().copied())).sqrt()
}

/// Peak signal-to-noise ratio in dB.
fn psnr(reference: &[u8], picture: &[u8]) -> f64 {
    let squares = reference.iter().zip(picture).map(|(&a, &b)| f64::from(a.abs_diff(b)).powi(2)).sum::<f64>();
    10.0 * (255.0 * 255.0 * reference.len() as f64 / squares).log10()
}

/// Differences between pictures and those in f32.
struct Apart {
    mean_psnr: f64,
    least_psnr: f64,
    /// Largest [`relative_l2`] of the latents after any step of any picture.
    most_of_latents: f64,
}

fn compare(name: &str, mut model: AnyPipeline) -> Apart {
    let mut in_f32 = self::model(DType::F32, None);
    let mut by_step = [0f64; 20];
    let psnrs = PROMPTS.map(|prompt| {
        let (reference, given) = (picture(&mut in_f32, prompt), picture(&mut model, prompt));
        for (most, (a, b)) in by_step.iter_mut().zip(reference.latents.iter().zip(&given.latents)) {
            *most = most.max(relative_l2(a, b));
        }
        let psnr = psnr(&reference.pixels, &given.pixels);
        println!("{psnr:.1} dB: {prompt}");
        psnr
    });
    let mean_psnr = psnrs.iter().sum::<f64>() / psnrs.len() as f64;
    let least_psnr = psnrs.into_iter().fold(f64::MAX, f64::min);
    let most_of_latents = by_step.iter().copied().fold(0.0, f64::max);
    let steps: Vec<_> = by_step.iter().map(|share| format!("{share:.1e}")).collect();
    println!("{name} against f32 on {} prompts: mean {mean_psnr:.1} dB, least {least_psnr:.1} dB", PROMPTS.len());
    println!("latents' most relative L2 by step: {}", steps.join(" "));
    assert!(least_psnr.is_finite(), "the pictures are equal: nothing was rounded");
    Apart { mean_psnr, least_psnr, most_of_latents }
}

impl Apart {
    fn assert_within(&self, mean_psnr: f64, least_psnr: f64, most_of_latents: f64) {
        let Apart { mean_psnr: mean, least_psnr: least, most_of_latents: most } = *self;
        assert!(mean > mean_psnr && least > least_psnr, "mean {mean:.1} dB, least {least:.1} dB");
        assert!(most < most_of_latents, "latents {most:.1e} apart");
    }
}

#[test]
fn eight_bit_pictures_are_close_to_those_in_f32() {
    compare("int8", model(DType::F32, Some(Quantization::Int8))).assert_within(46.0, 40.0, 5e-2);
}

/// The same products as on a GPU with fp8, except for the order of summation.
#[test]
fn fp8_pictures_are_close_to_those_in_f32() {
    compare("fp8", model(DType::F32, Some(Quantization::Fp8))).assert_within(40.0, 33.0, 1.5e-1);
}

/// Rounded weights; on processors that gain speed by it, activations and attention inputs are rounded too.
#[test]
fn pictures_in_bf16_are_close_to_those_in_f32() {
    compare("bf16", model(DType::BF16, None)).assert_within(55.0, 50.0, 2e-2);
}

/// Fp8 leaves the first and last of the tiny models' 6 blocks unquantized, and the memory plan accounts for it.
#[test]
fn a_plan_counts_the_blocks_that_are_rounded() {
    let transformer = |model: &str, quantization| {
        let checkpoint = Checkpoint::open(committed_goldens().join("models").join(model)).unwrap();
        let bytes = models::model_bytes(&checkpoint, &LoadOptions { quantization, ..LoadOptions::default() });
        bytes.unwrap().transformer
    };
    let of = |model: &str| [None, Some(Quantization::Int8), Some(Quantization::Fp8)].map(|q| transformer(model, q));
    let [whole, int8, fp8] = of("qwen-image");
    assert_eq!(6 * (whole.all - fp8.all), 4 * (whole.all - int8.all), "{whole:?} {int8:?} {fp8:?}");
    assert_eq!([&whole, &int8, &fp8].map(|bytes| bytes.kinds().len()), [1, 1, 2]);

    // Two blocks in one list and four in the other, of which one and three are quantized.
    let [whole, int8, fp8] = of("flux2-klein");
    assert_eq!([&whole, &int8, &fp8].map(|bytes| bytes.kinds().len()), [2, 2, 4]);
    let saved = |blocks: usize| {
        let bytes_of = |bytes: &models::ComponentBytes| bytes.kinds().into_iter().find(|(count, _)| *count == blocks);
        bytes_of(&whole).unwrap().1 - bytes_of(&int8).unwrap().1
    };
    assert_eq!(whole.all - fp8.all, saved(2) + 3 * saved(4), "{whole:?} {int8:?} {fp8:?}");
}
