//! What the step cache did for a picture, as counts and as one line.

use cache::{CacheConfig, CacheStats, Reason, RunStats, Segment, StepRecord};
use diffusion::StepReport;

/// Converts the reports of a picture's steps to the cache's own records; `num_blocks` has the blocks of each segment.
pub fn stats(steps: &[StepReport], config: &CacheConfig, num_blocks: &[usize]) -> CacheStats {
    let Some(first) = steps.first() else { return CacheStats::default() };
    // A report lists the runs segment by segment, and within a segment branch by branch.
    let branches = (first.runs.len() / num_blocks.len().max(1)).max(1);
    let runs = first.runs.iter().zip(0..).map(|(run, i)| {
        let segment = Segment { name: run.segment, num_blocks: num_blocks.get(i / branches).copied().unwrap_or(1) };
        let mut stats = RunStats::new(segment, i % branches, config.always_computed_blocks());
        for run in steps.iter().filter_map(|step| step.runs.get(i)) {
            // A configuration that never reuses also stores nothing; its runs are `uncached`.
            let reason = Reason::named(run.reason).unwrap_or(Reason::NothingStored);
            stats.push(StepRecord { decision: reason.decision(), residual_diff: run.residual_diff });
        }
        stats
    });
    runs.collect()
}

/// Formats the counts: `10 steps computed, 18 reused, 2.72x`. The speedup is estimated from blocks.
pub fn counts(stats: &CacheStats) -> String {
    let (computed, reused) = (stats.computed_steps(), stats.reused_steps());
    format!("{computed} steps computed, {reused} reused, {:.2}x", stats.speedup_estimate())
}

/// The counts and the decisions of each branch, as one line.
pub fn line(steps: &[StepReport], stats: &CacheStats) -> String {
    let first = steps.iter().take(1).flat_map(|step| &step.runs);
    let runs = first.zip(stats.runs());
    let runs: Vec<_> =
        runs.map(|(first, run)| format!("{} {} {}", first.branch.name(), first.segment, run.decisions())).collect();
    format!("{}: {}", counts(stats), runs.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use diffusion::testing::steps;

    #[test]
    fn a_picture_in_a_line() {
        let steps = steps("WWssL", "WWsds");
        let stats = stats(&steps, &CacheConfig::default(), &[10]);
        // Each branch ran 6 x 10 and 4 x 1 of its 2 x 50 blocks.
        assert_eq!(
            line(&steps, &stats),
            "4 steps computed, 1 reused, 1.56x: cond transformer_blocks 11CC1, uncond transformer_blocks 11C1C"
        );
    }

    #[test]
    fn an_uncached_picture_gains_nothing() {
        let mut steps = steps("WW", "WW");
        steps.iter_mut().flat_map(|step| &mut step.runs).for_each(|run| run.reason = "uncached");
        let stats = stats(&steps, &CacheConfig::default(), &[10]);
        assert_eq!(counts(&stats), "2 steps computed, 0 reused, 1.00x");
        assert_eq!(stats, super::stats(&steps, &CacheConfig::default(), &[10]));
    }
}
