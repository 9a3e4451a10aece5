//! What the step cache computed and reused, for the answer.

use cache::{CacheConfig, Reason};
use diffusion::{BlockRun, StepReport};
use serde::Serialize;
use utoipa::ToSchema;

use super::cache_summary;

/// What the step cache computed and reused.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct CacheReport {
    computed_steps: usize,
    reused_steps: usize,
    /// Computed steps that the plan would have skipped, because the picture differs from those it was measured on.
    #[serde(skip_serializing_if = "is_zero")]
    off_course_steps: usize,
    /// Estimated speedup: blocks without the cache, divided by blocks that ran.
    speedup_estimate: f64,
    runs: Vec<RunReport>,
}

/// One guidance branch in one segment.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
struct RunReport {
    branch: &'static str,
    segment: &'static str,
    /// One character a step: `1` computed, `C` reused.
    decisions: String,
    computed_steps: usize,
    reused_steps: usize,
}

impl CacheReport {
    /// The report of a picture's steps, which ran with `config`.
    pub(crate) fn new(steps: &[StepReport], config: &CacheConfig, num_blocks: &[usize]) -> Self {
        let stats = cache_summary::stats(steps, config, num_blocks);
        let runs = stats.runs().iter().zip(steps.first().into_iter().flat_map(|step| &step.runs));
        CacheReport {
            computed_steps: stats.computed_steps(),
            reused_steps: stats.reused_steps(),
            off_course_steps: steps.iter().filter(|step| step.runs.iter().any(is_off_course)).count(),
            speedup_estimate: stats.speedup_estimate(),
            runs: runs
                .map(|(run, first)| RunReport {
                    branch: first.branch.name(),
                    segment: first.segment,
                    decisions: run.decisions(),
                    computed_steps: run.computed_steps(),
                    reused_steps: run.reused_steps(),
                })
                .collect(),
        }
    }
}

fn is_off_course(run: &BlockRun) -> bool {
    run.reason == Reason::OffCourse.name()
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

#[cfg(test)]
mod tests {
    use diffusion::CfgBranch;

    use super::*;

    #[test]
    fn steps_are_counted_by_branch() {
        let run = |branch, reused| BlockRun {
            branch,
            segment: "transformer_blocks",
            reused,
            reason: if reused { "similar" } else { "warmup" },
            residual_diff: None,
        };
        let step = |step_index, cond, uncond| StepReport {
            step_index,
            computed_share: 1.0,
            also_computed: 0,
            runs: vec![run(CfgBranch::Cond, cond), run(CfgBranch::Uncond, uncond)],
        };
        let steps = [step(0, false, false), step(1, true, false), step(2, true, true)];
        let report = CacheReport::new(&steps, &CacheConfig::default(), &[10]);
        assert_eq!((report.computed_steps, report.reused_steps), (2, 1));
        // Each branch ran 3 x 10 and 3 x 1 of its 2 x 30 blocks.
        assert_eq!(report.speedup_estimate, 60.0 / 33.0);
        let decisions: Vec<_> = report.runs.iter().map(|run| (run.branch, run.decisions.as_str())).collect();
        assert_eq!(decisions, [("cond", "1CC"), ("uncond", "11C")]);
        assert!(serde_json::to_value(&report).unwrap().get("off_course_steps").is_none());
    }

    #[test]
    fn steps_off_the_course_of_a_plan_are_counted() {
        let step = |(step_index, reason): (usize, Reason)| StepReport {
            step_index,
            computed_share: 1.0,
            also_computed: 0,
            runs: vec![BlockRun {
                branch: CfgBranch::Cond,
                segment: "transformer_blocks",
                reused: reason.decision().reused(),
                reason: reason.name(),
                residual_diff: None,
            }],
        };
        let reasons = [Reason::Plan, Reason::PlanSkips, Reason::Plan, Reason::OffCourse, Reason::OffCourse];
        let steps: Vec<_> = reasons.into_iter().enumerate().map(step).collect();
        let report = CacheReport::new(&steps, &CacheConfig::default(), &[10]);
        assert_eq!((report.computed_steps, report.off_course_steps), (4, 2));
        assert_eq!(serde_json::to_value(&report).unwrap()["off_course_steps"], 2);
    }
}
