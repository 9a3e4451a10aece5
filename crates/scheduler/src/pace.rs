//! The cost of each step of a request, in load or in seconds.

use diffusion::RequestCost;

/// The cost of a step, in any unit. If it is not known beforehand which steps are computed, both values are that of the
/// mean step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Pace {
    /// A step that computes all of its passes.
    computed: f64,
    /// A step that reuses what it can.
    reused: f64,
}

impl Pace {
    /// The loads of a request's steps. If it is not known which steps are computed, every step is expected to compute
    /// `expected_share` of its blocks.
    pub(crate) fn loads(cost: &RequestCost, expected_share: impl FnOnce() -> f64) -> Self {
        match cost.known {
            Some(_) => Pace { computed: cost.work.step, reused: cost.work.reused_step },
            None => Pace::even(cost.step_work(expected_share())),
        }
    }

    fn even(step: f64) -> Self {
        Pace { computed: step, reused: step }
    }

    /// Converts to another unit.
    pub(crate) fn map(self, unit: impl Fn(f64) -> f64) -> Self {
        match self.computed == self.reused {
            true => Pace::even(unit(self.computed)),
            false => Pace { computed: unit(self.computed), reused: unit(self.reused) },
        }
    }

    /// Cost of the step after `taken` steps.
    pub(crate) fn step(self, cost: &RequestCost, taken: usize) -> f64 {
        let is_computed = cost.known.is_none_or(|known| known.computes(taken));
        if is_computed { self.computed } else { self.reused }
    }

    /// Cost of all steps after the first `taken`.
    pub(crate) fn left(self, cost: &RequestCost, taken: usize) -> f64 {
        let left = cost.steps - taken;
        let computed = cost.known.map_or(left, |known| known.computed_from(taken).min(left));
        self.computed * computed as f64 + self.reused * (left - computed) as f64
    }
}

#[cfg(test)]
mod tests;
