//! Requests that follow plans: the built-in model with handmade plans.

use std::sync::{Arc, Mutex};

use cache::{
    Aim, CacheConfig, Calibration, FittedPlan, Jump, MaskSource, Plans, Progress, Psnr, Reason, StepsPolicy,
    VelocityChange,
};
use diffusion::{Interrupt, Limits, Pipeline, RequestDraft, StepReport};
use models::{AnyPipeline, Checkpoint, LoadOptions, OnLearnt, RequestState};

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

/// A plan that computes these steps of eight.
fn plan(computed: &[usize], jump: impl Fn(usize) -> Jump) -> Calibration {
    let jumps = (0..computed.len()).map(jump).collect();
    let plan = FittedPlan { computed: computed.to_vec(), jumps, changes: Vec::new(), psnr: Psnr::of(vec![50.0]) };
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

/// Starts a request that follows `plan`. Requests that have begun keep their plans.
fn start(model: &mut Model, prompt: &str, steps: usize, plan: Option<Calibration>) -> RequestState {
    let draft =
        RequestDraft { prompt: prompt.into(), num_inference_steps: Some(steps as i64), ..RequestDraft::default() };
    let Model { pipeline, plans } = model;
    let mut requests = draft.build(pipeline.card(), &Limits::default(), || 7).unwrap();
    if let Some(plan) = plan {
        plans.replace(plan);
        requests[0].cache = Some(CacheConfig { planned: Some(Aim::Budget(1.0)), ..CacheConfig::default() });
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
        // One step of the transformer at the level where the jump begins, stretched to the jump's length.
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
    // A repeated step gives the same result, whether it is computed or skipped.
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

/// A run that is off course at every step of its plan skips nothing after the first jump, which is Euler's here.
#[test]
fn a_run_that_is_off_its_plan_is_the_uncached_one_to_the_bit() {
    let mut model = model();
    let mut plan = plan(&[0, 1, 4, 6], |_| Jump { velocities: vec![1.0], latents: 0.0 });
    plan.plans[0].changes = vec![VelocityChange { mean: -40.0, spread: 0.0 }; 3];
    let mut planned = start(&mut model, "a dog", STEPS, Some(plan.clone()));
    let mut whole = start(&mut model, "a dog", STEPS, None);
    for _ in 0..STEPS {
        step(&mut model, &mut [&mut planned]);
        step(&mut model, &mut [&mut whole]);
        assert_eq!(numbers(&planned), numbers(&whole));
    }
    let run = &planned.cache_stats().unwrap().runs()[0];
    assert_eq!(run.by_reason(), [(Reason::OffCourse, 4), (Reason::Plan, 4)]);
    let changes = run.residual_diffs().unwrap();
    println!("velocities change by {:.3} to {:.3}", changes.min, changes.max);
    assert!(changes.min > 0.0 && changes.max < 1.0);

    // A plan that allows larger changes is followed.
    plan.plans[0].changes = vec![VelocityChange { mean: 0.0, spread: 0.0 }; 3];
    let mut planned = start(&mut model, "a dog", STEPS, Some(plan));
    (0..STEPS).for_each(|_| drop(step(&mut model, &mut [&mut planned])));
    assert_eq!(planned.cache_stats().unwrap().runs()[0].decisions(), "11CC1C1C");
}

/// Returns two strings with a letter per step: whether it was expected to be computed, and whether it was.
fn foreseen_and_done(model: &mut Model, config: CacheConfig) -> [String; 2] {
    let steps = Some(STEPS as i64);
    let draft = RequestDraft { prompt: "a dog".into(), num_inference_steps: steps, ..RequestDraft::default() };
    let mut requests = draft.build(model.pipeline.card(), &Limits::default(), || 7).unwrap();
    requests[0].cache = Some(config);
    let cost = model.pipeline.estimator()(&requests[0]);
    let mut known = cost.known.unwrap();
    let mut state = model.pipeline.prepare(&requests[0], &Interrupt::default()).unwrap();
    let letter = |computed| if computed { '1' } else { '0' };
    let (mut foreseen, mut done) = (String::new(), String::new());
    for index in 0..STEPS {
        foreseen.push(letter(known.computes(index)));
        let report = step(model, &mut [&mut state]).remove(0);
        done.push(letter(report.computed()));
        assert_eq!(report.computed_share, if report.computed() { 1.0 } else { cost.least_share });
        known.compute(index + 1..index + 1 + report.also_computed);
    }
    [foreseen, done]
}

#[test]
fn which_steps_are_computed_is_foreseen() {
    let mut model = model();
    let planned = || CacheConfig { planned: Some(Aim::Budget(1.0)), ..CacheConfig::default() };
    let mut guarded = plan(&[0, 1, 4, 6], |_| Jump { velocities: vec![1.0], latents: 0.0 });
    model.plans.replace(guarded.clone());
    assert_eq!(foreseen_and_done(&mut model, planned()), ["11001010"; 2]);
    // Off course only at the fifth step: the next step is computed too, and this is known from then on.
    let change = |mean| VelocityChange { mean, spread: 0.0 };
    guarded.plans[0].changes = vec![change(9.0), change(-40.0), change(9.0)];
    model.plans.replace(guarded);
    assert_eq!(foreseen_and_done(&mut model, planned()), ["11001110"; 2]);
    let mask = MaskSource::Steps("11010010".parse().unwrap());
    let masked = CacheConfig {
        steps_computation_mask: Some(mask),
        steps_computation_policy: StepsPolicy::Static,
        compute_last_step: true,
        ..CacheConfig::default()
    };
    assert_eq!(foreseen_and_done(&mut model, masked), ["11010011"; 2]);
}

#[test]
fn plans_are_learnt_from_the_first_requests() {
    let plans = Plans::default();
    plans.learn_from(4);
    let kept = Arc::new(Mutex::new(Vec::new()));
    let on_learnt = {
        let kept = kept.clone();
        OnLearnt(Some(Arc::new(move |calibration: &Calibration| kept.lock().unwrap().push(calibration.clone()))))
    };
    let options = LoadOptions { plans: plans.clone(), on_learnt, ..LoadOptions::default() };
    let mut model = models::load(&checkpoint(), &options, &|_, _, _| ()).unwrap();
    let mut picture = |prompt: &str, seed: u32, cache: Option<Aim>| {
        let steps = Some(STEPS as i64);
        let draft = RequestDraft { prompt: prompt.into(), num_inference_steps: steps, ..RequestDraft::default() };
        let mut requests = draft.build(model.card(), &Limits::default(), || seed).unwrap();
        if let Some(aim) = cache {
            requests[0].cache = Some(CacheConfig { planned: Some(aim), ..CacheConfig::default() });
        }
        let memory = model.estimator()(&requests[0]).memory.state;
        let mut state = model.prepare(&requests[0], &Interrupt::default()).unwrap();
        let told = model.warnings(&state).concat();
        (0..STEPS).for_each(|_| drop(model.step(&mut [&mut state], &Interrupt::default()).unwrap()));
        let skipped = state.cache_stats().map_or(0, |stats| stats.reused_steps());
        (model.decode(state, &Interrupt::default()).unwrap(), skipped, told, memory)
    };
    let aim = Some(Aim::Budget(0.5));
    for (seed, prompt) in ["a dog", "a fox", "a large cactus", "a house"].into_iter().enumerate() {
        assert_eq!(plans.progress(true), Some(Progress { pictures: seed, of: 4 }));
        let (learnt_from, skipped, told, memory) = picture(prompt, seed as u32, aim);
        assert!(told.contains(&format!("({seed} of 4 so far)")), "{told}");
        let (whole, _, _, less) = picture(prompt, seed as u32, None);
        assert_eq!((skipped, &learnt_from), (0, &whole), "learning changes nothing");
        assert!(memory > less, "all latents of the run are kept");
    }
    assert_eq!(plans.progress(true), None);
    let learnt = plans.current(true).unwrap().calibration;
    assert_eq!((learnt.check(), learnt.pictures, learnt.plans.len()), (Ok(()), 4, STEPS - 2));
    assert_eq!(*kept.lock().unwrap(), [(*learnt).clone()]);
    let (planned, skipped, told, _) = picture("a football", 9, aim);
    assert_eq!((skipped, told.as_str()), (4, ""));
    let real = omni::psnr(&picture("a football", 9, None).0, &planned).unwrap();
    let promised = learnt.chosen(STEPS, Aim::Budget(0.5)).psnr;
    println!("4 of 8 steps: {real:.1} dB, promised {:.1}", promised.mean);
    assert!(real > promised.least - 6.0, "{real}");
}
