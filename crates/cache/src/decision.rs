//! The decision whether the middle blocks run in a step, and its reason.

/// Whether the middle blocks run, and the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decision {
    /// The middle blocks run, and their residual is stored.
    Compute(Reason),
    /// A forecast from the stored residuals replaces them.
    Reuse(Reason),
}

/// The reason why a step was computed or reused. Most steps are decided by the first rule that applies, in the order of
/// these variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// Computed: a step of the warmup (`max_warmup_steps`, `warmup_interval`).
    Warmup,
    /// Computed: the step is in the mask.
    Mask,
    /// Computed: the request's last step, with `compute_last_step`.
    LastStep,
    /// Reused: the step is outside the mask, and `scm_steps_policy` is `static`.
    StaticMask,
    /// Computed: `max_cached_steps` are used up.
    MaxCachedSteps,
    /// Computed: the `max_continuous_cached_steps` steps directly before this one were reused.
    MaxContinuousCachedSteps,
    /// Computed: the diffs have added up to `max_accumulated_residual_diff_threshold`.
    AccumulatedDiff,
    /// Computed: a `residual_diff_threshold` of 0 allows no reuse.
    ZeroThreshold,
    /// Computed: nothing is stored yet.
    NothingStored,
    /// Computed: the number of tokens changed since the last computed step.
    ShapeChanged,
    /// Reused: a `residual_diff_threshold` of 1 or more allows every reuse, unmeasured.
    AlwaysSimilar,
    /// Reused: the diff is below the threshold.
    Similar,
    /// Computed: the diff is not below the threshold, or is NaN.
    Different,
    /// Computed: the other CFG branch is computed, and `branches_agree` is set.
    OtherBranch,
    /// Computed: the plan skips the step, but the velocity has changed far more than in the measured runs.
    OffCourse,
    /// Computed: the plan computes the step.
    Plan,
    /// Skipped: the plan skips the step.
    PlanSkips,
}

impl Decision {
    /// Whether a forecast replaces the middle blocks.
    pub fn reused(self) -> bool {
        matches!(self, Decision::Reuse(_))
    }

    /// The reason of the decision.
    pub fn reason(self) -> Reason {
        match self {
            Decision::Compute(reason) | Decision::Reuse(reason) => reason,
        }
    }
}

impl Reason {
    /// Every reason, with its name in metrics, traces and responses.
    pub const NAMED: [(&'static str, Reason); 17] = [
        ("warmup", Reason::Warmup),
        ("mask", Reason::Mask),
        ("last_step", Reason::LastStep),
        ("static_mask", Reason::StaticMask),
        ("max_cached_steps", Reason::MaxCachedSteps),
        ("max_continuous_cached_steps", Reason::MaxContinuousCachedSteps),
        ("accumulated_diff", Reason::AccumulatedDiff),
        ("zero_threshold", Reason::ZeroThreshold),
        ("nothing_stored", Reason::NothingStored),
        ("shape_changed", Reason::ShapeChanged),
        ("always_similar", Reason::AlwaysSimilar),
        ("similar", Reason::Similar),
        ("different", Reason::Different),
        ("other_branch", Reason::OtherBranch),
        ("off_course", Reason::OffCourse),
        ("plan", Reason::Plan),
        ("plan_skips", Reason::PlanSkips),
    ];

    /// The reason's name in metrics, traces and responses.
    pub fn name(self) -> &'static str {
        Reason::NAMED[self as usize].0
    }

    /// The reason with this name.
    pub fn named(name: &str) -> Option<Reason> {
        Reason::NAMED.into_iter().find(|&(known, _)| known == name).map(|(_, reason)| reason)
    }

    /// The decision that follows from the reason.
    pub fn decision(self) -> Decision {
        match self {
            Reason::StaticMask | Reason::AlwaysSimilar | Reason::Similar | Reason::PlanSkips => Decision::Reuse(self),
            _ => Decision::Compute(self),
        }
    }
}

/// The record of one step of one branch in one segment: a line of a trace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepRecord {
    /// The decision.
    pub decision: Decision,
    /// The diff that decided it, if any.
    pub residual_diff: Option<f32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_in_the_order_of_the_variants() {
        for (i, (name, reason)) in Reason::NAMED.into_iter().enumerate() {
            assert_eq!((reason as usize, reason.name()), (i, name));
            assert_eq!(Reason::named(name), Some(reason));
        }
        assert_eq!(Reason::named("because"), None);
    }
}
