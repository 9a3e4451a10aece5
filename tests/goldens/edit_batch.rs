//! Generations and edits in one ragged batch: each gives the same result as alone.

use cache::CacheConfig;
use diffusion::{ImageRequest, InputImage, Interrupt, Pipeline, StepReport};
use models::AnyPipeline;

use crate::edit_models::{PLENTY, edit, guided, klein, latents, picture, qwen, size};

/// Settings with which these requests reuse some steps. They differ in what is stored and how it is decided.
const SETTINGS: [&str; 3] = [
    r#"{"residual_diff_threshold": 0.9, "max_warmup_steps": 1, "Fn_compute_blocks": 1}"#,
    r#"{"residual_diff_threshold": 0.8, "max_warmup_steps": 2, "enable_taylorseer": true, "Bn_compute_blocks": 1}"#,
    r#"{"steps_computation_mask": [1, 0, 1, 0, 0, 1], "scm_steps_policy": "static", "max_warmup_steps": 0}"#,
];

#[test]
fn flux2_klein_a_mixed_batch_changes_no_request() {
    check(&mut klein(PLENTY), &[0, 1, 2, 4, 0, 1]);
}

#[test]
fn qwen_image_edit_a_mixed_batch_changes_no_request() {
    check(&mut qwen(PLENTY), &[1, 2, 3, 4, 2, 1]);
}

/// The requests differ in everything: number and sizes of pictures, output size, prompt, steps, guidance, cache.
fn check(model: &mut AnyPipeline, picture_counts: &[usize]) {
    let sizes = [size(64, 64), size(96, 48), size(100, 72), size(48, 112)];
    let pictures: Vec<InputImage> =
        (0..4).map(|i| picture(i, [size(96, 96), size(128, 64), size(70, 90), size(64, 64)][i as usize])).collect();
    let requests = picture_counts.iter().enumerate().map(|(i, &count)| {
        let pictures: Vec<_> = pictures.iter().cycle().skip(i).take(count).cloned().collect();
        let prompt = "a cat, red and blue".repeat(i + 1);
        request(model, i, edit(&prompt, &pictures, sizes[i % sizes.len()]))
    });
    let requests: Vec<_> = requests.collect();
    let alone: Vec<_> = requests.iter().map(|request| run(model, std::slice::from_ref(request)).remove(0)).collect();
    let together = run(model, &requests);
    for (i, (alone, together)) in alone.iter().zip(&together).enumerate() {
        assert_eq!(together.steps, alone.steps, "request {i}");
        assert!(together.latents == alone.latents, "request {i}: not the same latents, bit for bit");
        let reused = together.steps.iter().flat_map(|step| &step.runs).any(|run| run.reused);
        assert_eq!(reused, i % 4 != 0, "request {i}: whether a step was reused");
    }
    let runs_at = |step: usize| together.iter().filter_map(move |run| run.steps.get(step)).flat_map(|step| &step.runs);
    let is_mixed = |step| runs_at(step).any(|run| run.reused) && runs_at(step).any(|run| !run.reused);
    assert!((0..8).any(is_mixed), "no step mixed computed and reused rows");
}

/// Every fourth request has no cache, every other one is guided, and their step counts vary.
fn request(model: &AnyPipeline, i: usize, mut request: ImageRequest) -> ImageRequest {
    request.params.num_inference_steps = [4, 8, 5, 6][i % 4];
    request.params.seed = i as u64;
    if let Some(settings) = (i % 4).checked_sub(1) {
        request.cache = Some(serde_json::from_str::<CacheConfig>(SETTINGS[settings]).unwrap());
    }
    if i.is_multiple_of(2) { guided(model, request, 3.0, "night") } else { request }
}

struct Run {
    latents: Vec<f32>,
    steps: Vec<StepReport>,
}

/// Steps all requests together; finished requests leave the batch.
fn run(model: &mut AnyPipeline, requests: &[ImageRequest]) -> Vec<Run> {
    let mut states: Vec<_> =
        requests.iter().map(|request| model.prepare(request, &Interrupt::default()).unwrap()).collect();
    let mut steps = vec![Vec::new(); states.len()];
    for step in 0..8 {
        let due = |i: &usize| requests[*i].params.num_inference_steps > step;
        let rows: Vec<usize> = (0..requests.len()).filter(due).collect();
        let mut batch: Vec<_> = states.iter_mut().enumerate().filter(|(i, _)| due(i)).map(|(_, state)| state).collect();
        if batch.is_empty() {
            break;
        }
        let reports = model.step(&mut batch, &Interrupt::default()).unwrap();
        rows.into_iter().zip(reports).for_each(|(i, report)| steps[i].push(report));
    }
    states.iter().zip(steps).map(|(state, steps)| Run { latents: latents(state), steps }).collect()
}
