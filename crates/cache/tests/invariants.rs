//! Invariants of any configuration and any diffs, checked on 10,000 random requests.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]

use cache::{
    CacheConfig, Decision, MaskSource, Reason, RefreshPolicy, RequestCache, RowObservation, ScmPolicy, Segment,
    StepMask, StepRecord, StepsPolicy, Stream,
};
use proptest::prelude::*;

/// A request: its configuration, and `diffs[step][branch]`.
#[derive(Clone, Debug)]
struct Request {
    config: CacheConfig,
    diffs: Vec<[f32; 2]>,
}

fn diff() -> impl Strategy<Value = f32> {
    prop_oneof![8 => 0.0_f32..1.2, 1 => Just(0.0), 1 => Just(f32::NAN), 1 => Just(f32::INFINITY)]
}

fn limit() -> impl Strategy<Value = Option<usize>> {
    prop_oneof![Just(None), (0_usize..6).prop_map(Some)]
}

fn mask() -> impl Strategy<Value = Option<MaskSource>> {
    let bins = || prop::collection::vec(0_usize..6, 1..5);
    prop_oneof![
        3 => Just(None),
        1 => prop::sample::select(ScmPolicy::NAMED.to_vec()).prop_map(|(_, policy)| Some(MaskSource::Policy(policy))),
        1 => prop::collection::vec(any::<bool>(), 1..40)
            .prop_map(|steps| Some(MaskSource::Steps(StepMask::from_steps(steps)))),
        1 => (bins(), bins()).prop_map(|(compute, cache)| Some(MaskSource::Bins { compute, cache })),
    ]
}

prop_compose! {
    fn config()(
        (max_warmup_steps, warmup_interval) in (0_usize..10, 1_usize..5),
        (max_cached_steps, max_continuous_cached_steps) in (limit(), limit()),
        residual_diff_threshold in prop_oneof![Just(0.0), Just(-1.0), Just(1.0), 0.05_f64..1.1],
        max_accumulated_residual_diff_threshold in prop::option::of(0.1_f64..3.0),
        (steps_computation_mask, is_static) in (mask(), any::<bool>()),
        (force_refresh_step_hint, repeats) in (prop::option::of(1_usize..12), any::<bool>()),
        (cfg_diff_compute_separate, branches_agree, compute_last_step) in any::<(bool, bool, bool)>(),
        (enable_taylorseer, taylorseer_order) in (any::<bool>(), 0_usize..=4),
    ) -> CacheConfig {
        CacheConfig {
            max_warmup_steps,
            warmup_interval,
            max_cached_steps,
            max_continuous_cached_steps,
            residual_diff_threshold,
            max_accumulated_residual_diff_threshold,
            enable_taylorseer,
            taylorseer_order,
            steps_computation_mask,
            steps_computation_policy: if is_static { StepsPolicy::Static } else { StepsPolicy::Dynamic },
            force_refresh_step_hint,
            force_refresh_step_policy: if repeats { RefreshPolicy::Repeat } else { RefreshPolicy::Once },
            cfg_diff_compute_separate,
            branches_agree,
            compute_last_step,
            ..CacheConfig::default()
        }
    }
}

fn request() -> impl Strategy<Value = Request> {
    let diffs = prop::collection::vec([diff(), diff()], 1..60);
    (config(), diffs).prop_map(|(config, diffs)| Request { config, diffs })
}

/// The cache of one segment with `branches` branches.
fn start(config: &CacheConfig, steps: usize, branches: usize) -> RequestCache {
    RequestCache::new(config, steps, &[Segment { name: "blocks", num_blocks: 10 }], branches).0
}

/// Simulates the diffs and passes each step's records to `check`, with the cache after the step. Only requested diffs
/// are passed on.
fn play(config: &CacheConfig, diffs: &[Vec<f32>], mut check: impl FnMut(usize, &[StepRecord], &RequestCache)) {
    let branches = diffs[0].len();
    let mut cache = start(config, diffs.len(), branches);
    for (step, diffs) in diffs.iter().enumerate() {
        let needed = cache.needs_diff(0, &vec![64; branches]);
        let rows: Vec<_> = needed
            .iter()
            .zip(diffs)
            .map(|(&needed, &diff)| RowObservation { tokens: 64, residual_diff: needed.then_some(diff) })
            .collect();
        let records = cache.decide(0, &rows);
        check(step, &records, &cache);
    }
}

fn both(request: &Request) -> Vec<Vec<f32>> {
    request.diffs.iter().map(|diffs| diffs.to_vec()).collect()
}

fn column(request: &Request, branch: usize) -> Vec<Vec<f32>> {
    request.diffs.iter().map(|diffs| vec![diffs[branch]]).collect()
}

/// Whether the state is reset at this step.
fn is_fresh(config: &CacheConfig, step: usize) -> bool {
    match (config.force_refresh_step_hint, config.force_refresh_step_policy) {
        (Some(hint), RefreshPolicy::Repeat) => step.is_multiple_of(hint),
        (Some(hint), RefreshPolicy::Once) => step == 0 || step == hint,
        (None, _) => step == 0,
    }
}

/// The mask and whether it is static, if the step count has one.
fn mask_of(config: &CacheConfig, steps: usize) -> Option<(StepMask, bool)> {
    let mask = config.steps_computation_mask.as_ref()?.mask(steps).ok()?;
    Some((mask, config.steps_computation_policy == StepsPolicy::Static))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_rules_hold_for_any_request(request in request()) {
        let Request { config, diffs } = &request;
        let mask = mask_of(config, diffs.len());
        let is_static = mask.as_ref().is_some_and(|(_, is_static)| *is_static);
        // Per branch: the step of the state, the reused steps in all and directly before this step, and the history.
        let mut state = [(0_usize, 0_usize, 0_usize, 0_usize); 2];
        play(config, &both(&request), |step, records, cache| {
            for (branch, record) in records.iter().enumerate() {
                if is_fresh(config, step) {
                    state[branch] = (0, 0, 0, 0);
                    assert!(!record.decision.reused(), "step {step}: nothing is stored");
                }
                let (state_step, reused, run, history) = &mut state[branch];
                let must = mask.as_ref().is_some_and(|(mask, _)| mask.computes(*state_step));
                let is_last = config.compute_last_step && step + 1 == diffs.len();
                assert!(!record.decision.reused() || !(must || is_last), "step {step} must be computed");
                if is_static && !must && *state_step > 0 && !is_last {
                    assert!(record.decision.reused(), "step {step}: a static mask is obeyed");
                }
                match record.decision {
                    Decision::Reuse(reason) => {
                        (*reused, *run) = (*reused + 1, *run + 1);
                        if !is_static {
                            assert!(config.residual_diff_threshold > 0.0);
                            assert!(config.max_cached_steps.is_none_or(|limit| *reused <= limit));
                            assert!(config.max_continuous_cached_steps.is_none_or(|limit| *run <= limit));
                        }
                        if reason == Reason::Similar {
                            assert!(f64::from(record.residual_diff.unwrap()) < config.residual_diff_threshold);
                        }
                        let weights = cache.branch(0, branch).weights(Stream::Hidden);
                        assert_eq!(weights.len(), *history, "one weight a stored residual");
                        assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-6, "a constant stays itself");
                    }
                    Decision::Compute(_) => {
                        *run = 0;
                        *history = (*history + 1).min(cache.branch(0, branch).keep(Stream::Hidden));
                        assert!(*history <= config.max_stored_residuals(Stream::Hidden));
                    }
                }
                *state_step += 1;
            }
            if config.branches_agree {
                assert_eq!(records[0].decision.reused(), records[1].decision.reused());
            }
        });
    }

    #[test]
    fn a_branch_decides_as_if_it_were_alone(request in request()) {
        let config = CacheConfig { branches_agree: false, cfg_diff_compute_separate: true, ..request.config.clone() };
        // Compared as text, because NaN is not equal to itself.
        let mut together = [Vec::new(), Vec::new()];
        play(&config, &both(&request), |_, records, _| {
            together.iter_mut().zip(records).for_each(|(branch, record)| branch.push(format!("{record:?}")));
        });
        for (branch, together) in together.iter().enumerate() {
            play(&config, &column(&request, branch), |step, records, _| {
                assert_eq!(format!("{:?}", records[0]), together[step]);
            });
        }
    }

    #[test]
    fn the_clock_moves_on_at_every_step(request in request()) {
        // Warmup and mask depend on the clock only, so the steps that they force do not depend on the diffs.
        let similar = vec![vec![0.0]; request.diffs.len()];
        let mut forced = Vec::new();
        let by_clock = |record: &StepRecord| matches!(
            record.decision.reason(),
            Reason::Warmup | Reason::Mask | Reason::LastStep | Reason::StaticMask
        );
        play(&request.config, &similar, |_, records, _| forced.push(by_clock(&records[0])));
        play(&request.config, &column(&request, 0), |step, records, _| {
            assert_eq!(by_clock(&records[0]), forced[step]);
        });
    }
}
