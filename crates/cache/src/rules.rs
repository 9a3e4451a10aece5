//! The rules that decide a step, in cache-dit 1.5.3's order: pure functions of a few counters.
//!
//! The order is that of `CachedContextManager.can_cache`:
//! <https://github.com/vipshop/cache-dit/blob/v1.5.3/src/cache_dit/caching/cache_contexts/cache_manager.py>

use crate::{CacheConfig, Decision, Reason, StepMask, StepsPolicy};

/// The configuration applied to one request and segment.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    max_warmup_steps: usize,
    warmup_interval: usize,
    mask: Option<StepMask>,
    steps_computation_policy: StepsPolicy,
    max_cached_steps: Option<usize>,
    max_continuous_cached_steps: Option<usize>,
    max_accumulated_residual_diff: Option<f64>,
    residual_diff_threshold: f64,
    /// The request's last step, if it must be computed.
    last_step: Option<usize>,
}

/// The progress of one branch.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Counters {
    /// The next step, from 0; reset to 0 by a refresh.
    pub(crate) step: usize,
    /// The request's next step, from 0; never reset.
    pub(crate) request_step: usize,
    /// Number of reused steps.
    pub(crate) cached_steps: usize,
    /// Number of reused steps directly before the next one.
    pub(crate) continuous_cached_steps: usize,
    /// Sum of the measured diffs, including those of computed steps.
    pub(crate) accumulated_residual_diff: f64,
    /// Tokens of the stored residual.
    pub(crate) stored_tokens: Option<usize>,
}

impl Rules {
    /// The rules for a request of `num_inference_steps` with this mask, in the `segment`th segment.
    pub(crate) fn new(
        config: &CacheConfig,
        mask: Option<StepMask>,
        num_inference_steps: usize,
        segment: usize,
    ) -> Self {
        let leading = mask.as_ref().map_or(usize::MAX, StepMask::leading_computed);
        Rules {
            max_warmup_steps: config.max_warmup_steps.min(leading),
            warmup_interval: config.warmup_interval.max(1),
            mask,
            steps_computation_policy: config.steps_computation_policy,
            max_cached_steps: config.max_cached_steps,
            max_continuous_cached_steps: config.max_continuous_cached_steps,
            max_accumulated_residual_diff: config.max_accumulated_residual_diff_threshold.filter(|&limit| limit > 0.0),
            residual_diff_threshold: config.residual_diff_threshold * config.segment_threshold_factor(segment),
            last_step: config.compute_last_step.then(|| num_inference_steps.saturating_sub(1)),
        }
    }

    /// The reason that decides the next step of a row of `tokens` tokens without its diff, if any.
    pub(crate) fn forced(&self, counters: &Counters, tokens: usize) -> Option<Reason> {
        let step = counters.step;
        if step < self.max_warmup_steps && step.is_multiple_of(self.warmup_interval) {
            return Some(Reason::Warmup);
        }
        if self.mask.as_ref().is_some_and(|mask| mask.computes(step)) {
            return Some(Reason::Mask);
        }
        if self.last_step == Some(counters.request_step) {
            return Some(Reason::LastStep);
        }
        // cache-dit looks at the stored residual only once it measures: a static step 0 fails there, and a residual of
        // another shape is added if the shapes broadcast.
        let unusable = match counters.stored_tokens {
            None => Some(Reason::NothingStored),
            Some(stored) => (stored != tokens).then_some(Reason::ShapeChanged),
        };
        if self.mask.is_some() && self.steps_computation_policy == StepsPolicy::Static {
            return Some(unusable.unwrap_or(Reason::StaticMask));
        }
        self.limit(counters)
            .or(unusable)
            .or_else(|| (self.residual_diff_threshold >= 1.0).then_some(Reason::AlwaysSimilar))
    }

    /// Decides by the diff a step that no other rule decides.
    pub(crate) fn by_diff(&self, residual_diff: f32) -> Reason {
        // A NaN, which is 0 / 0, is below no threshold.
        if f64::from(residual_diff) < self.residual_diff_threshold { Reason::Similar } else { Reason::Different }
    }

    /// The limit that the next step has reached, if any.
    fn limit(&self, counters: &Counters) -> Option<Reason> {
        if self.max_cached_steps.is_some_and(|limit| counters.cached_steps >= limit) {
            return Some(Reason::MaxCachedSteps);
        }
        if self.max_continuous_cached_steps.is_some_and(|limit| counters.continuous_cached_steps >= limit) {
            return Some(Reason::MaxContinuousCachedSteps);
        }
        if self.max_accumulated_residual_diff.is_some_and(|limit| counters.accumulated_residual_diff >= limit) {
            return Some(Reason::AccumulatedDiff);
        }
        (self.residual_diff_threshold <= 0.0).then_some(Reason::ZeroThreshold)
    }
}

impl Counters {
    /// Advances past a step with this `decision` and measured diff, on a row of `tokens` tokens.
    pub(crate) fn advance(&mut self, decision: Decision, residual_diff: Option<f32>, tokens: usize) {
        // Diffs of computed steps count too, and only a refresh resets the sum: the limit ends the caching for good.
        if let Some(diff) = residual_diff.filter(|&diff| diff > 0.0) {
            self.accumulated_residual_diff += f64::from(diff);
        }
        if decision.reused() {
            self.cached_steps += 1;
            self.continuous_cached_steps += 1;
        } else {
            self.continuous_cached_steps = 0;
            self.stored_tokens = Some(tokens);
        }
        self.step += 1;
        self.request_step += 1;
    }

    /// The counters before the first step, except for the position in the request.
    pub(crate) fn refreshed(&self) -> Counters {
        Counters { request_step: self.request_step, ..Counters::default() }
    }
}
