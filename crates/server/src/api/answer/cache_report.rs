//! What the step cache computed and reused, for the answer.

use cache::CacheConfig;
use diffusion::StepReport;
use serde::Serialize;
use utoipa::ToSchema;

use super::cache_summary;

/// What the step cache computed and reused.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct CacheReport {
    computed_steps: usize,
    reused_steps: usize,
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

#[cfg(test)]
mod tests {
    use diffusion::{BlockRun, CfgBranch};

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
            runs: vec![run(CfgBranch::Cond, cond), run(CfgBranch::Uncond, uncond)],
        };
        let steps = [step(0, false, false), step(1, true, false), step(2, true, true)];
        let report = CacheReport::new(&steps, &CacheConfig::default(), &[10]);
        assert_eq!((report.computed_steps, report.reused_steps), (2, 1));
        // Each branch ran 3 x 10 and 3 x 1 of its 2 x 30 blocks.
        assert_eq!(report.speedup_estimate, 60.0 / 33.0);
        let decisions: Vec<_> = report.runs.iter().map(|run| (run.branch, run.decisions.as_str())).collect();
        assert_eq!(decisions, [("cond", "1CC"), ("uncond", "11C")]);
    }
}
