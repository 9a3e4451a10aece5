//! Reasons why a request has no plan.

use std::fmt;

use cache::PlanError;
use diffusion::Sampler;

/// The reason why a request has no plan.
pub(crate) enum NoPlan {
    /// The request asks for another sampler than Euler.
    Sampler(Sampler),
    /// The model has no plan for the request.
    Unplanned(PlanError),
}

impl NoPlan {
    /// Whether the reason is that no plans exist for such requests yet.
    pub(crate) fn is_for_want_of_plans(&self) -> bool {
        matches!(self, NoPlan::Unplanned(PlanError::Unknown | PlanError::Guidance { .. }))
    }
}

impl fmt::Display for NoPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoPlan::Sampler(sampler) => {
                write!(f, "a plan replaces the sampler, and the request asks for {}", sampler.name())
            }
            NoPlan::Unplanned(why) => why.fmt(f),
        }
    }
}
