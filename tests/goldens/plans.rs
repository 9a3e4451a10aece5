//! Requests that follow plans: the built-in model, with plans made up by hand.

use cache::{Aim, CacheConfig, Calibration, FittedPlan, Jump, Plans, Psnr};
use diffusion::{Interrupt, Limits, Pipeline, RequestDraft, StepReport};
use models::{AnyPipeline, Checkpoint, LoadOptions, RequestState};

const STEPS: usize = 8;

fn checkpoint() -> Checkpoint {
    Checkpoint::Embedded(demo::FILES.iter().map(|file| (file.path, file.bytes)).collect())
}

/// A model, and the plans that it is served with.
struct Model {
    pipeline: AnyPipeline,
    plans: Plans,
}

fn model() -> Model {
    let plans = Plans::default();
    let options = LoadOptions { plans: plans.clone(), ..LoadOptions::default() };
    Model { pipeline: models::load(&checkpoint(), &options, &|_, _, _| ()).unwrap(), plans }
}

/// Computes these steps of eight.
fn plan(computed: &[usize], jump: impl Fn(usize) -> Jump) -> Calibration {
    let jumps = (0..computed.len()).map(jump).collect();
    let plan = FittedPlan { computed: computed.to_vec(), jumps, psnr: Psnr::of(vec![50.0]) };
    let calibration = Calibration {
        class: "QwenImagePipeline".into(),
        model: checkpoint().digest("transformer").unwrap(),
        num_inference_steps: STEPS,
        guidance: Some(3.0),
        pictures: 1,
        plans: vec![plan],
    };
    calibration.check().unwrap();
    calibration
}

/// At step 0, on the way along `plan`; others that have begun keep theirs.
fn start(model: &mut Model, prompt: &str, steps: usize, plan: Option<Calibration>) -> RequestState {
    let draft =
        RequestDraft { prompt: prompt.into(), num_inference_steps: Some(steps as i64), ..RequestDraft::default() };
    let Model { pipeline, plans } = model;
    let mut requests = draft.build(pipeline.card(), &Limits::default(), || 7).unwrap();
    if let Some(plan) = plan {
        plans.replace(plan);
        requests[0].extensions.insert(CacheConfig { planned: Some(Aim::Budget(1.0)), ..CacheConfig::default() });
    }
    let state = pipeline.prepare(&requests[0], &Interrupt::default()).unwrap();
    let told = pipeline.warnings(&state);
    assert!(!told.iter().any(|warning| warning.contains("without a cache")), "{told:?}");
    state
}

fn step(model: &mut Model, batch: &mut [&mut RequestState]) -> Vec<StepReport> {
    model.pipeline.step(batch, &Interrupt::default()).unwrap()
}

fn numbers(state: &RequestState) -> Vec<f32> {
    state.latents().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn a_plan_that_skips_nothing_is_the_uncached_run_to_the_bit() {
    let mut model = model();
    let all: Vec<_> = (0..STEPS).collect();
    let mut planned = start(&mut model, "a dog", STEPS, Some(plan(&all, |_| Jump::euler())));
    let mut whole = start(&mut model, "a dog", STEPS, None);
    for _ in 0..STEPS {
        let reports = step(&mut model, &mut [&mut planned]);
        assert_eq!(reports[0].computed_share, 1.0);
        step(&mut model, &mut [&mut whole]);
        assert_eq!(numbers(&planned), numbers(&whole));
    }
}

/// Euler's jumps are the steps of a shorter schedule.
#[test]
fn skipped_steps_run_nothing_and_end_where_a_longer_step_does() {
    let mut model = model();
    let mut planned = start(&mut model, "a cat", STEPS, Some(plan(&[0, 2, 5], |_| Jump::euler())));
    let mut whole = start(&mut model, "a cat", STEPS, None);
    let sigmas = whole.sigmas().as_slice().to_vec();
    let mut latents = whole.latents().clone();
    for (from, to) in [(0, 2), (2, 5), (5, STEPS)] {
        // One step of the transformer at the level that the jump begins at, stretched to the jump's own length.
        whole = whole.resumed_at(from, latents.clone());
        step(&mut model, &mut [&mut whole]);
        let way = (whole.latents() - &latents).unwrap();
        let stretch = f64::from((sigmas[to] - sigmas[from]) / (sigmas[from + 1] - sigmas[from]));
        latents = (&latents + (way * stretch).unwrap()).unwrap();
        for index in from..to {
            let report = step(&mut model, &mut [&mut planned]).remove(0);
            assert_eq!(report.computed_share, if index == from { 1.0 } else { 0.0 }, "step {index}");
            assert!(report.runs.iter().all(|run| run.reused == (index != from)), "step {index}");
        }
        let expected: Vec<f32> = latents.flatten_all().unwrap().to_vec1().unwrap();
        let apart = numbers(&planned).iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("level {to}: {apart:.1e} apart");
        assert!(apart < 1e-4, "level {to}: {apart:.1e}");
    }
    let stats = planned.cache_stats().unwrap();
    assert_eq!((stats.computed_steps(), stats.reused_steps()), (3, 5));
}

#[test]
fn plans_of_other_kinds_step_together_as_each_alone() {
    let mut model = model();
    let jump = |i: usize| Jump { velocities: [1.2, -0.3, 0.1][..Jump::velocities_behind(i)].to_vec(), latents: 0.01 };
    let mut starts = vec![
        start(&mut model, "a dog", STEPS, Some(plan(&[0, 3, 4, 6], jump))),
        start(&mut model, "a large cactus", 12, Some(plan(&[0, 1, 5], jump))),
        start(&mut model, "a fox", STEPS, None),
    ];
    let alone: Vec<_> = starts
        .iter()
        .map(|state| {
            let mut state = state.clone();
            (state.step_index()..state.num_steps()).for_each(|_| drop(step(&mut model, &mut [&mut state])));
            numbers(&state)
        })
        .collect();
    // A step that is taken back is the same again, whether it is computed or skipped.
    for index in 0..12 {
        let mut taken_back = starts.clone();
        let mut batch: Vec<_> = taken_back.iter_mut().filter(|state| index < state.num_steps()).collect();
        step(&mut model, &mut batch);
        let mut batch: Vec<_> = starts.iter_mut().filter(|state| index < state.num_steps()).collect();
        step(&mut model, &mut batch);
        assert!(starts.iter().zip(&taken_back).all(|(a, b)| numbers(a) == numbers(b)), "step {index}");
    }
    for (together, alone) in starts.iter().zip(&alone) {
        assert_eq!(&numbers(together), alone);
    }
}
