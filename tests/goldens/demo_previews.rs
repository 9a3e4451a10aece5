//! Previews of the built-in model: their content, and that they do not change the picture.

use diffusion::{
    Guidance, ImageRequest, ImageSize, Interrupt, Pipeline, PreviewMethod, PreviewTimes, Previews, RgbImage, Sampler,
    SamplingParams,
};
use models::{AnyPipeline, Checkpoint, LoadOptions, RequestState};

const STEPS: usize = 6;

fn model() -> AnyPipeline {
    let checkpoint = Checkpoint::Embedded(demo::FILES.iter().map(|file| (file.path, file.bytes)).collect());
    models::load(&checkpoint, &LoadOptions::default(), &|_, _, _| ()).unwrap()
}

/// A guided request whose size is not a multiple of a token.
fn request(prompt: &str, seed: u64, previews: Option<PreviewTimes>) -> ImageRequest {
    ImageRequest {
        prompt: prompt.into(),
        negative_prompt: Some(" ".into()),
        input_images: Default::default(),
        mask: None,
        params: SamplingParams {
            size: ImageSize { width: 120, height: 100 },
            num_inference_steps: STEPS,
            sampler: Sampler::Euler,
            guidance: Guidance::TrueCfg { scale: 3.0 },
            seed,
        },
        fit: None,
        previews: previews.map(|times| Previews { method: PreviewMethod::Latent2Rgb, times }),
        cache: None,
        held: Default::default(),
    }
}

fn finished(model: &mut AnyPipeline, request: &ImageRequest) -> RequestState {
    let mut state = model.prepare(request, &Interrupt::default()).unwrap();
    (0..STEPS).for_each(|_| drop(model.step(&mut [&mut state], &Interrupt::default()).unwrap()));
    state
}

/// Pearson correlation over all numbers of two pictures.
fn correlation(a: &RgbImage, b: &RgbImage) -> f64 {
    assert_eq!(a.size, b.size);
    let centred = |image: &RgbImage| {
        let mean = image.pixels.iter().map(|x| f64::from(*x)).sum::<f64>() / image.pixels.len() as f64;
        image.pixels.iter().map(|x| f64::from(*x) - mean).collect::<Vec<_>>()
    };
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let (a, b) = (centred(a), centred(b));
    product(&a, &b) / (product(&a, &a) * product(&b, &b)).sqrt()
}

/// Flattens `x`.
fn numbers(x: &candle_core::Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn a_picture_with_previews_is_the_one_without() {
    let mut model = model();
    let without = finished(&mut model, &request("a fox", 7, None));
    let without = (numbers(without.latents()), model.decode(without, &Interrupt::default()).unwrap());
    for method in [PreviewMethod::Latent2Rgb, PreviewMethod::Vae] {
        let mut state =
            model.prepare(&request("a fox", 7, Some(PreviewTimes::Interval(1))), &Interrupt::default()).unwrap();
        for step in 1..=STEPS {
            model.step(&mut [&mut state], &Interrupt::default()).unwrap();
            if step < STEPS {
                model.preview(&state, method, &Interrupt::default()).unwrap();
            }
        }
        let with = (numbers(state.latents()), model.decode(state, &Interrupt::default()).unwrap());
        assert!(with == without, "{method:?}: bit for bit");
    }
}

#[test]
fn the_estimate_is_where_the_whole_step_would_lead() {
    let mut model = model();
    let mut state = model.prepare(&request("a fox", 7, Some(PreviewTimes::Count(1))), &Interrupt::default()).unwrap();
    let (sigmas, mut estimates) = (state.sigmas().clone(), 0);
    for step in 0..STEPS {
        let before = numbers(state.latents());
        model.step(&mut [&mut state], &Interrupt::default()).unwrap();
        // Estimates are due after the first half of the steps; at the end the picture itself.
        let Some(estimate) = state.clean_latents() else { continue };
        estimates += 1;
        // v from the step taken, then x0 = x - sigma v at the step's start.
        let (sigma, dt) = (sigmas.sigma(step), sigmas.dt(step));
        let expected = before.iter().zip(numbers(state.latents())).map(|(x, after)| x - sigma * ((after - x) / dt));
        let error = numbers(estimate).iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(error < 1e-3, "after step {step}: {error}");
    }
    assert_eq!(estimates, 2, "estimates are kept only for previews");
}

#[test]
fn previews_of_the_vae_come_closer_to_the_picture() {
    let mut model = model();
    let mut state = model
        .prepare(&request("a fox on the right", 7, Some(PreviewTimes::Interval(1))), &Interrupt::default())
        .unwrap();
    let mut previews = Vec::new();
    for _ in 1..STEPS {
        model.step(&mut [&mut state], &Interrupt::default()).unwrap();
        previews.push(model.preview(&state, PreviewMethod::Vae, &Interrupt::default()).unwrap());
    }
    model.step(&mut [&mut state], &Interrupt::default()).unwrap();
    let picture = model.decode(state, &Interrupt::default()).unwrap();
    let closeness: Vec<_> = previews.iter().map(|preview| correlation(preview, &picture)).collect();
    println!("{closeness:.3?}");
    assert!(closeness[0] > 0.8 && closeness[0] < closeness[STEPS - 2] && closeness[STEPS - 2] > 0.99, "{closeness:?}");
}

#[test]
fn the_linear_map_is_learnt_from_what_was_decoded() {
    let mut model = model();
    let asked = |prompt: &str, seed| request(prompt, seed, Some(PreviewTimes::Interval(1)));
    let fox = finished(&mut model, &asked("a fox", 7));
    let first = model.preview(&fox, PreviewMethod::Latent2Rgb, &Interrupt::default()).unwrap();
    assert!(first == model.decode(fox, &Interrupt::default()).unwrap(), "nothing was decoded yet: the VAE draws");

    for (seed, prompt) in ["a dog on a blue background", "a sunflower", "a red car", "a panda"].iter().enumerate() {
        let state = finished(&mut model, &asked(prompt, seed as u64));
        model.decode(state, &Interrupt::default()).unwrap();
    }
    let shown = ["a fox on a black background", "a pizza", "a penguin on a pink background"].map(|prompt| {
        let state = finished(&mut model, &asked(prompt, 7));
        let preview = model.preview(&state, PreviewMethod::Latent2Rgb, &Interrupt::default()).unwrap();
        correlation(&preview, &model.decode(state, &Interrupt::default()).unwrap())
    });
    println!("{shown:.3?}");
    assert!(shown.iter().all(|&correlation| (0.75..0.99).contains(&correlation)), "like it, yet not it: {shown:?}");
}
