//! What the steps of a request come to, one by one: in load or in seconds.

use diffusion::RequestCost;

/// What a step comes to, in whatever unit. Where it is not known beforehand which steps are computed, either is the mean step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Pace {
    /// One that computes all of its passes.
    computed: f64,
    /// One that reuses what it can.
    reused: f64,
}

impl Pace {
    /// The loads of a request's steps, which compute this share of their blocks where it is not known which do.
    pub(crate) fn loads(cost: &RequestCost, expected_share: impl FnOnce() -> f64) -> Self {
        match cost.known {
            Some(_) => Pace { computed: cost.work.step, reused: cost.work.reused_step },
            None => Pace::even(cost.step_work(expected_share())),
        }
    }

    fn even(step: f64) -> Self {
        Pace { computed: step, reused: step }
    }

    /// The same in another unit.
    pub(crate) fn map(self, unit: impl Fn(f64) -> f64) -> Self {
        match self.computed == self.reused {
            true => Pace::even(unit(self.computed)),
            false => Pace { computed: unit(self.computed), reused: unit(self.reused) },
        }
    }

    /// The step behind so many.
    pub(crate) fn step(self, cost: &RequestCost, taken: usize) -> f64 {
        let is_computed = cost.known.is_none_or(|known| known.computes(taken));
        if is_computed { self.computed } else { self.reused }
    }

    /// All steps behind so many.
    pub(crate) fn left(self, cost: &RequestCost, taken: usize) -> f64 {
        let left = cost.steps - taken;
        let computed = cost.known.map_or(left, |known| known.computed_from(taken).min(left));
        self.computed * computed as f64 + self.reused * (left - computed) as f64
    }
}

#[cfg(test)]
mod tests;
