//! Predicts the effect of a configuration without a model, for `latentd cache plan` and `cache simulate`.

use crate::stats::CacheStats;
use crate::{CacheConfig, Reason, RequestCache, RowObservation, Segment, StepCache, StepMask, Warning};

/// What is known of a request's steps before the first.
#[derive(Clone, Debug, PartialEq)]
pub struct CachePlan {
    /// One character per step: `1` always computed, `C` always reused (a static mask), `.` decided by the diff or a
    /// limit.
    pub forced: String,
    /// The mask, if there is one for this step count.
    pub mask: Option<String>,
    /// The decisions if every diff allows reuse, `1` or `C` per step.
    pub best_case: String,
    /// The transformer's speedup in that case, an upper bound for any request.
    pub max_speedup: f64,
    /// Warnings for the user.
    pub warnings: Vec<Warning>,
}

/// The reason why diffs cannot be simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SimulateError {
    /// The number of lines differs from the number of steps.
    #[error("there must be one line of diffs a step, {steps} in all. Given: {given} lines")]
    Lines {
        /// Steps of the request.
        steps: usize,
        /// Lines given.
        given: usize,
    },
    /// The number of diffs on a line differs from the number of branches.
    #[error("line {line} must have {branches} diffs, one a branch. Given: {given}")]
    Columns {
        /// Line number, from 1.
        line: usize,
        /// Branches of the request.
        branches: usize,
        /// Diffs on the line.
        given: usize,
    },
}

/// Plans a request of `num_inference_steps` steps on a model whose segments have `num_blocks` blocks. The forced steps,
/// the mask and the best case are those of the first segment.
pub fn plan(config: &CacheConfig, num_inference_steps: usize, num_blocks: &[usize]) -> CachePlan {
    let mask = config.steps_computation_mask.as_ref().and_then(|source| source.mask(num_inference_steps).ok());
    let (stats, warnings) = play(config, num_inference_steps, num_blocks, 1, |_, _| 0.0);
    let first = stats.runs().first();
    CachePlan {
        forced: first.map_or_else(String::new, |run| {
            run.records().iter().map(|record| forced_letter(record.decision.reason())).collect()
        }),
        mask: mask.map(|mask| mask.to_string()),
        best_case: first.map_or_else(String::new, |run| run.decisions()),
        max_speedup: stats.speedup_estimate(),
        warnings,
    }
}

/// The computed steps of a request on a model with `segments` segments, if they are known before the first step. They
/// are if no step depends on its diff, as under a static mask.
pub fn known_steps(config: &CacheConfig, num_inference_steps: usize, segments: usize) -> Option<StepMask> {
    let mask = config.steps_computation_mask.as_ref().and_then(|source| source.mask(num_inference_steps).ok());
    let of_segment = |segment| -> Option<StepMask> {
        let mut cache = StepCache::new(config, mask.clone(), num_inference_steps, segment);
        let step = |_| {
            cache.forced(1)?;
            Some(!cache.decide(1, None).reused())
        };
        (0..num_inference_steps).map(step).collect::<Option<Vec<_>>>().map(StepMask::from_steps)
    };
    let first = of_segment(0)?;
    (1..segments).all(|segment| of_segment(segment).as_ref() == Some(&first)).then_some(first)
}

/// Simulates measured diffs, `diffs[step][branch]`, on one segment of `num_blocks` blocks. The first step's diffs are
/// ignored, because nothing is stored yet, as are those of other forced steps.
///
/// # Errors
/// The number of lines differs from the number of steps, or a line from the number of branches.
pub fn simulate(
    config: &CacheConfig,
    num_inference_steps: usize,
    num_blocks: usize,
    branches: usize,
    diffs: &[Vec<f32>],
) -> Result<(CacheStats, Vec<Warning>), SimulateError> {
    if diffs.len() != num_inference_steps {
        return Err(SimulateError::Lines { steps: num_inference_steps, given: diffs.len() });
    }
    if let Some((i, line)) = diffs.iter().enumerate().find(|(_, line)| line.len() != branches) {
        return Err(SimulateError::Columns { line: i + 1, branches, given: line.len() });
    }
    Ok(play(config, num_inference_steps, &[num_blocks], branches, |step, branch| diffs[step][branch]))
}

fn play(
    config: &CacheConfig,
    steps: usize,
    num_blocks: &[usize],
    branches: usize,
    diff: impl Fn(usize, usize) -> f32,
) -> (CacheStats, Vec<Warning>) {
    let segments: Vec<_> = num_blocks.iter().map(|&num_blocks| Segment { name: "blocks", num_blocks }).collect();
    let (mut cache, warnings) = RequestCache::new(config, steps, &segments, branches);
    for step in 0..steps {
        let row = |branch| RowObservation { tokens: 1, residual_diff: Some(diff(step, branch)) };
        let rows: Vec<_> = (0..branches).map(row).collect();
        for segment in 0..segments.len() {
            cache.decide(segment, &rows);
        }
    }
    (cache.stats().clone(), warnings)
}

fn forced_letter(reason: Reason) -> char {
    match reason {
        Reason::Warmup | Reason::Mask | Reason::LastStep | Reason::NothingStored | Reason::ZeroThreshold => '1',
        Reason::StaticMask => 'C',
        _ => '.',
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MaskSource, Preset, ScmPolicy, StepsPolicy};

    #[test]
    fn steps_are_known_where_none_waits_for_its_diff() {
        let known = |json: &str| {
            let config: CacheConfig = serde_json::from_str(json).unwrap();
            known_steps(&config, 8, 2).map(|mask| mask.to_string())
        };
        let known = |json: &str| known(json).unwrap_or_default();
        assert_eq!(known("{}"), "");
        let mask = |more| format!(r#"{{"steps_computation_mask": "11010100"{more}}}"#);
        assert_eq!(known(&mask("")), "", "the others are dynamic");
        assert_eq!(known(&mask(r#", "scm_steps_policy": "static""#)), "11010100");
        let more = r#", "scm_steps_policy": "static", "compute_last_step": true, "max_cached_steps": 1"#;
        assert_eq!(known(&mask(more)), "11010101", "a static mask obeys no limit");
        let again = r#", "scm_steps_policy": "static", "force_refresh_step_hint": 3"#;
        assert_eq!(known(&mask(again)), "11011010", "from its start again");
        // Without a mask: all steps are warmup, or all are similar.
        assert_eq!(known(r#"{"max_warmup_steps": 8}"#), "11111111");
        assert_eq!(known(r#"{"residual_diff_threshold": 1, "max_warmup_steps": 2}"#), "11000100");
        // Known in one of two segments only.
        assert_eq!(known(r#"{"residual_diff_threshold": 1, "segment_threshold_factors": [1, 0.5]}"#), "");
    }

    fn scm(policy: ScmPolicy, max_continuous_cached_steps: Option<usize>) -> CacheConfig {
        CacheConfig {
            steps_computation_mask: Some(MaskSource::Policy(policy)),
            max_continuous_cached_steps,
            ..CacheConfig::default()
        }
    }

    /// Computed steps in the best case, and the speedup with one of 60 blocks always computed, from runs of cache-dit
    /// 1.5.3 with every similarity test passing.
    #[test]
    fn the_best_cases_are_cache_dits() {
        let no_mask = CacheConfig::default();
        for (config, steps, computed, speedup) in [
            (no_mask.clone(), 4, 4, 1.00),
            (no_mask.clone(), 8, 5, 1.58),
            (no_mask.clone(), 20, 8, 2.44),
            (no_mask.clone(), 28, 10, 2.72),
            (no_mask.clone(), 40, 13, 2.97),
            (no_mask, 50, 15, 3.21),
            (scm(ScmPolicy::Slow, Some(3)), 28, 18, 1.54),
            (scm(ScmPolicy::Medium, Some(3)), 40, 24, 1.65),
            (scm(ScmPolicy::Medium, Some(3)), 50, 33, 1.50),
            (scm(ScmPolicy::Fast, Some(3)), 50, 25, 1.97),
            (scm(ScmPolicy::Fast, None), 50, 20, 2.44),
            (scm(ScmPolicy::Ultra, Some(3)), 28, 11, 2.48),
            (scm(ScmPolicy::Ultra, None), 28, 8, 3.36),
        ] {
            let plan = plan(&config, steps, &[60]);
            let ones = plan.best_case.matches('1').count();
            assert_eq!(
                (ones, format!("{:.2}", plan.max_speedup)),
                (computed, format!("{speedup:.2}")),
                "{steps} steps"
            );
        }
    }

    #[test]
    fn a_plan_tells_forced_steps_from_open_ones() {
        let guide = plan(&CacheConfig::default(), 10, &[60]);
        assert_eq!((guide.forced.as_str(), guide.best_case.as_str()), ("1111......", "1111CCC1CC"));
        assert_eq!(guide.mask, None);
        let last = plan(&Preset::Balanced.config(), 10, &[60]);
        assert_eq!(last.forced, "111......1");
        let policy = CacheConfig { steps_computation_policy: StepsPolicy::Static, ..scm(ScmPolicy::Fast, Some(3)) };
        let fixed = plan(&policy, 8, &[60]);
        assert_eq!((fixed.forced.as_str(), fixed.mask.as_deref()), ("111C1CC1", Some("11101001")));
    }

    #[test]
    fn warnings_tell_of_steps_without_a_mask_or_without_reuse() {
        let seven = plan(&scm(ScmPolicy::Fast, Some(3)), 7, &[60]);
        assert_eq!((seven.best_case.as_str(), seven.mask), ("1111CCC", None));
        assert_eq!(
            seven.warnings[0].to_string(),
            "cached without a mask: the SCM policies have masks for 4, for 6 and for at least 8 steps. Given: 7 steps"
        );
        assert_eq!(plan(&CacheConfig::default(), 4, &[60]).warnings, [Warning::NothingToReuse(4)]);
        assert_eq!(plan(&Preset::Lossless.config(), 50, &[60]).warnings, []);
        let steps = MaskSource::Steps("1101".parse().unwrap());
        let short = CacheConfig { steps_computation_mask: Some(steps), ..CacheConfig::default() };
        assert_eq!(plan(&short, 12, &[60]).warnings, [Warning::ShortMask { mask: 4, steps: 12 }]);
    }

    #[test]
    fn a_simulation_plays_a_column_a_branch() {
        let config = CacheConfig { max_warmup_steps: 1, ..CacheConfig::default() };
        let diffs = [[9.0, 9.0], [0.1, 0.3], [0.2, 0.1], [0.3, 0.2]].map(|line| line.to_vec());
        let (stats, _) = simulate(&config, 4, 60, 2, &diffs).unwrap();
        let decisions: Vec<_> = stats.runs().iter().map(|run| run.decisions()).collect();
        assert_eq!(decisions, ["1CC1", "11CC"]);
        assert_eq!((stats.computed_steps(), stats.reused_steps()), (3, 1));
    }

    #[test]
    fn a_simulation_needs_every_diff() {
        let config = CacheConfig::default();
        let err = simulate(&config, 3, 60, 1, &[vec![0.1], vec![0.1]]).unwrap_err();
        assert_eq!(err.to_string(), "there must be one line of diffs a step, 3 in all. Given: 2 lines");
        let err = simulate(&config, 2, 60, 2, &[vec![0.1, 0.1], vec![0.1]]).unwrap_err();
        assert_eq!(err.to_string(), "line 2 must have 2 diffs, one a branch. Given: 1");
    }
}
