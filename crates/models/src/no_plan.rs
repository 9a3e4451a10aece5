//! Why a request has no plan.

use std::fmt;

use cache::PlanError;
use diffusion::Sampler;

/// Why a request has no plan.
pub(crate) enum NoPlan {
    /// Another sampler than Euler's was asked for.
    Sampler(Sampler),
    /// The model has none for it.
    Unplanned(PlanError),
}

impl NoPlan {
    /// Whether it would have one if there were plans of its kind.
    pub(crate) fn is_for_want_of_plans(&self) -> bool {
        matches!(self, NoPlan::Unplanned(PlanError::Unknown | PlanError::Guidance { .. }))
    }
}

impl fmt::Display for NoPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoPlan::Sampler(sampler) => {
                write!(f, "a plan takes the place of a sampler, and {} was asked for", sampler.name())
            }
            NoPlan::Unplanned(why) => why.fmt(f),
        }
    }
}
