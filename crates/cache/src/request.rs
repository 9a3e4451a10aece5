//! The caches of one request, for every segment and CFG branch.

use std::sync::Arc;

use crate::stats::{CacheStats, RunStats};
use crate::{CacheConfig, Decision, MaskError, Reason, Segment, StepCache, StepMask, StepRecord};

/// The caller's observation of one branch's row when its step is decided.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowObservation {
    /// Tokens of the hidden stream.
    pub tokens: usize,
    /// `mean |previous - current| / mean |previous|` of the first blocks' residual, with `previous` from the last
    /// computed step. Required if [`RequestCache::needs_diff`] asks for it, ignored otherwise.
    pub residual_diff: Option<f32>,
}

/// The caches of one request. Branch 0 is the conditional branch.
///
/// Drop it with its residuals when the request ends: no state of a request outlives it.
#[derive(Clone, Debug)]
pub struct RequestCache {
    config: CacheConfig,
    /// `caches[segment][branch]`
    caches: Vec<Vec<StepCache>>,
    stats: CacheStats,
}

/// A warning for the client about a request's cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// There is no mask for the step count.
    #[error("cached without a mask: {0}")]
    NoMask(MaskError),
    /// The mask was given step by step for another step count.
    #[error("`steps_computation_mask` names {mask} of {steps} steps: it leaves the others out")]
    ShortMask {
        /// Steps in the mask.
        mask: usize,
        /// Steps of the request.
        steps: usize,
    },
    /// No step can be reused.
    #[error("no step can be reused: the warmup, the mask or a limit has each of the {0} steps computed")]
    NothingToReuse(usize),
}

impl RequestCache {
    /// Creates the caches for `num_inference_steps` steps of `branches` passes each. Also returns the warnings for the
    /// client.
    pub fn new(
        config: &CacheConfig,
        num_inference_steps: usize,
        segments: &[Segment],
        branches: usize,
    ) -> (Self, Vec<Warning>) {
        let (mask, mut warnings) = mask_for(config, num_inference_steps);
        let cache = |segment| StepCache::new(config, mask.clone(), num_inference_steps, segment);
        if !config.never_reuses() && !can_reuse(cache(0), num_inference_steps) {
            warnings.push(Warning::NothingToReuse(num_inference_steps));
        }
        let caches = (0..segments.len()).map(|segment| vec![cache(segment); branches]).collect();
        let runs = segments.iter().flat_map(|&segment| {
            (0..branches).map(move |branch| RunStats::new(segment, branch, config.always_computed_blocks()))
        });
        (RequestCache { config: config.clone(), caches, stats: runs.collect() }, warnings)
    }

    /// Sets the noise levels of the request's steps, which TaylorSeer uses with `taylorseer_in_sigma`.
    pub fn at_levels(mut self, levels: &[f64]) -> Self {
        if self.config.taylorseer_in_sigma {
            let levels: Arc<[f64]> = levels.into();
            for caches in &mut self.caches {
                *caches = caches.drain(..).map(|cache| cache.by_levels(levels.clone())).collect();
            }
        }
        self
    }

    /// The request's configuration.
    pub fn config(&self) -> &CacheConfig {
        &self.config
    }

    /// Returns which branches need their diff for the next step of `segment`. `tokens` are the tokens of each branch's
    /// hidden stream. If no row of a batch needs its diff, nothing has to be measured.
    pub fn needs_diff(&self, segment: usize, tokens: &[usize]) -> Vec<bool> {
        let forced = self.forced(segment, tokens);
        let overruled = self.config.branches_agree && forced.iter().any(is_computed);
        let takes_over = |branch| branch > 0 && self.shares_diff() && forced[0].is_none();
        let branches = forced.iter().enumerate();
        branches.map(|(branch, forced)| forced.is_none() && !overruled && !takes_over(branch)).collect()
    }

    /// Decides the next step of `segment` for every branch, and advances to the step after it.
    ///
    /// # Panics
    /// If a branch lacks a diff that it needs, or `rows` does not have one entry per branch.
    pub fn decide(&mut self, segment: usize, rows: &[RowObservation]) -> Vec<StepRecord> {
        let branches = self.caches[segment].len();
        assert_eq!(rows.len(), branches, "every branch of the request is decided. This is a bug.");
        let records = self.judge(segment, rows);
        for (branch, (record, row)) in records.iter().zip(rows).enumerate() {
            self.caches[segment][branch].advance(record.decision, record.residual_diff, row.tokens);
            self.stats.record(segment * branches + branch, *record);
        }
        records
    }

    /// The state of one branch in one segment, with its weights and the length of its history.
    pub fn branch(&self, segment: usize, branch: usize) -> &StepCache {
        &self.caches[segment][branch]
    }

    /// Statistics of the computed and reused steps so far.
    pub fn stats(&self) -> &CacheStats {
        &self.stats
    }

    fn forced(&self, segment: usize, tokens: &[usize]) -> Vec<Option<Decision>> {
        self.caches[segment].iter().zip(tokens).map(|(cache, &tokens)| cache.forced(tokens)).collect()
    }

    fn judge(&self, segment: usize, rows: &[RowObservation]) -> Vec<StepRecord> {
        let tokens: Vec<_> = rows.iter().map(|row| row.tokens).collect();
        let forced = self.forced(segment, &tokens);
        if self.config.branches_agree && forced.iter().any(is_computed) {
            let overruled = |own: &Option<Decision>| own.filter(|own| !own.reused()).unwrap_or(OVERRULED);
            return forced.iter().map(|own| StepRecord { decision: overruled(own), residual_diff: None }).collect();
        }
        let shared = if self.shares_diff() && forced[0].is_none() { rows[0].residual_diff } else { None };
        let judge = |branch: usize| {
            let residual_diff = shared.or(rows[branch].residual_diff).filter(|_| forced[branch].is_none());
            let decision = self.caches[segment][branch].judge(tokens[branch], residual_diff);
            StepRecord { decision, residual_diff }
        };
        let mut records: Vec<_> = (0..rows.len()).map(judge).collect();
        if self.config.branches_agree && records.iter().any(|record| !record.decision.reused()) {
            records.iter_mut().filter(|record| record.decision.reused()).for_each(|record| record.decision = OVERRULED);
        }
        records
    }

    fn shares_diff(&self) -> bool {
        !self.config.cfg_diff_compute_separate
    }
}

/// Replaces a branch's decision to reuse when the other branch is computed.
const OVERRULED: Decision = Decision::Compute(Reason::OtherBranch);

fn is_computed(forced: &Option<Decision>) -> bool {
    forced.is_some_and(|decision| !decision.reused())
}

/// The request's mask for its step count, and warnings about it.
fn mask_for(config: &CacheConfig, steps: usize) -> (Option<StepMask>, Vec<Warning>) {
    let Some(source) = &config.steps_computation_mask else { return (None, Vec::new()) };
    match source.mask(steps) {
        Ok(mask) => {
            let short = Warning::ShortMask { mask: mask.len(), steps };
            let warnings = if mask.len() < steps { vec![short] } else { Vec::new() };
            (Some(mask), warnings)
        }
        Err(err) => (None, vec![Warning::NoMask(err)]),
    }
}

/// Whether any step is reused if all diffs are 0.
fn can_reuse(mut cache: StepCache, steps: usize) -> bool {
    (0..steps).any(|_| cache.decide(1, Some(0.0)).reused())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Simulates `diffs[step][branch]` on segments that all have the same diffs. Returns the decisions of each segment
    /// and branch, and the measured (step, branch) pairs of the first segment.
    fn play(json: &str, segments: usize, diffs: &[[f32; 2]]) -> (Vec<String>, Vec<(usize, usize)>) {
        let config: CacheConfig = serde_json::from_str(json).unwrap();
        let segments = vec![Segment { name: "blocks", num_blocks: 10 }; segments];
        let (mut cache, _) = RequestCache::new(&config, diffs.len(), &segments, 2);
        let mut measured = Vec::new();
        for (step, diffs) in diffs.iter().enumerate() {
            for segment in 0..segments.len() {
                let needed = cache.needs_diff(segment, &[64, 64]);
                let row = |branch: usize| RowObservation {
                    tokens: 64,
                    residual_diff: needed[branch].then_some(diffs[branch]),
                };
                cache.decide(segment, &[row(0), row(1)]);
                if segment == 0 {
                    measured.extend((0..2).filter(|&branch| needed[branch]).map(|branch| (step, branch)));
                }
            }
        }
        (cache.stats().runs().iter().map(RunStats::decisions).collect(), measured)
    }

    #[test]
    fn branches_decide_apart() {
        let diffs = [[0.0, 0.0], [0.1, 0.3], [0.1, 0.1], [0.3, 0.1]];
        let (decisions, measured) = play(r#"{"max_warmup_steps": 1}"#, 1, &diffs);
        assert_eq!(decisions, ["1CC1", "11CC"]);
        assert_eq!(measured, [(1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1)]);
    }

    #[test]
    fn branches_agree_by_the_larger_diff() {
        let diffs = [[0.0, 0.0], [0.1, 0.3], [0.1, 0.1], [0.3, 0.1], [0.1, 0.1]];
        let agree = r#"{"max_warmup_steps": 1, "branches_agree": true}"#;
        assert_eq!(play(agree, 1, &diffs).0, ["11C1C", "11C1C"]);
        let config = serde_json::from_str(agree).unwrap();
        let (mut cache, _) = RequestCache::new(&config, 2, &[Segment { name: "blocks", num_blocks: 10 }], 2);
        let rows = |diffs: [f32; 2]| diffs.map(|diff| RowObservation { tokens: 64, residual_diff: Some(diff) });
        cache.decide(0, &rows([0.0, 0.0]));
        let records = cache.decide(0, &rows([0.1, 0.3]));
        assert_eq!(
            records.iter().map(|r| r.decision.reason()).collect::<Vec<_>>(),
            [Reason::OtherBranch, Reason::Different]
        );
        assert_eq!(records[0].residual_diff, Some(0.1), "the branch's own diff is on the record");
    }

    #[test]
    fn a_branch_that_must_compute_spares_the_other_its_diff() {
        // Branch 1 reaches its limit at the third step, branch 0 never.
        let json = r#"{"max_warmup_steps": 1, "branches_agree": true, "max_accumulated_residual_diff_threshold": 0.2}"#;
        let (decisions, measured) = play(json, 1, &[[0.0, 0.0], [0.05, 0.2], [0.05, 0.0]]);
        assert_eq!(decisions, ["1C1", "1C1"]);
        assert_eq!(measured, [(1, 0), (1, 1)]);
    }

    #[test]
    fn the_unconditional_branch_can_take_over_the_conditional_ones_diff() {
        let json = r#"{"max_warmup_steps": 1, "cfg_diff_compute_separate": false, "max_continuous_cached_steps": 1}"#;
        let (decisions, measured) = play(json, 1, &[[0.0, 0.0], [0.1, 9.0], [9.0, 9.0], [0.1, 9.0]]);
        assert_eq!(decisions, ["1C1C", "1C1C"]);
        assert_eq!(measured, [(1, 0), (3, 0)]);

        // The result is the same if the caller measures every row.
        let config = serde_json::from_str(json).unwrap();
        let (mut cache, _) = RequestCache::new(&config, 2, &[Segment { name: "blocks", num_blocks: 10 }], 2);
        for diffs in [[0.0, 0.0], [0.125, 9.0]] {
            cache.decide(0, &diffs.map(|diff| RowObservation { tokens: 64, residual_diff: Some(diff) }));
        }
        let record = StepRecord { decision: Decision::Reuse(Reason::Similar), residual_diff: Some(0.125) };
        assert_eq!(cache.stats().runs()[1].records()[1], record);
    }

    #[test]
    fn segments_have_their_own_thresholds_and_states() {
        let json = r#"{"max_warmup_steps": 1, "segment_threshold_factors": [1, 3]}"#;
        let (decisions, _) = play(json, 2, &[[0.0, 0.0], [0.3, 0.1], [0.1, 0.8], [0.3, 0.1]]);
        assert_eq!(decisions, ["11C1", "1C1C", "1CCC", "1C1C"]);
    }

    #[test]
    fn stats_count_steps_reasons_and_blocks() {
        let config = CacheConfig { max_warmup_steps: 1, fn_compute_blocks: 2, ..CacheConfig::default() };
        let segment = Segment { name: "transformer_blocks", num_blocks: 10 };
        let (mut cache, _) = RequestCache::new(&config, 4, &[segment], 2);
        for diffs in [[0.0, 0.0], [0.125, 0.5], [0.25, 0.125], [0.125, 0.125]] {
            cache.decide(0, &diffs.map(|diff| RowObservation { tokens: 64, residual_diff: Some(diff) }));
        }
        let stats = cache.stats();
        let [cond, uncond] = stats.runs() else { panic!("two branches") };
        assert_eq!((cond.segment, cond.branch, uncond.branch), (segment, 0, 1));
        assert_eq!((cond.decisions().as_str(), uncond.decisions().as_str()), ("1C1C", "11CC"));
        assert_eq!(cond.by_reason(), [(Reason::Warmup, 1), (Reason::Similar, 2), (Reason::Different, 1)]);
        let diffs = cond.residual_diffs().unwrap();
        assert_eq!((diffs.min, diffs.max), (0.125, 0.25), "the warmup's is not measured");
        assert_eq!((stats.computed_steps(), stats.reused_steps()), (3, 1));
        // Each branch ran 2 x 10 + 2 x 2 of its 4 x 10 blocks.
        assert_eq!(stats.speedup_estimate(), 40.0 / 24.0);
    }
}
