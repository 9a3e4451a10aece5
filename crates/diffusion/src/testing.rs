//! Step reports for tests, written as strings.

use crate::{BlockRun, CfgBranch, StepReport};

/// Reports of two branches in one segment. One character per step and branch: `W` warmup, `s` similar (diff 0.1), `d`
/// different (diff 0.5), `L` a limit.
pub fn steps(cond: &str, uncond: &str) -> Vec<StepReport> {
    let run = |branch, letter| {
        let (reason, residual_diff) = match letter {
            's' => ("similar", Some(0.1)),
            'd' => ("different", Some(0.5)),
            'L' => ("max_continuous_cached_steps", None),
            _ => ("warmup", None),
        };
        BlockRun { branch, segment: "transformer_blocks", reused: letter == 's', reason, residual_diff }
    };
    let steps = cond.chars().zip(uncond.chars()).enumerate();
    steps
        .map(|(step_index, (cond, uncond))| StepReport {
            step_index,
            computed_share: 1.0,
            also_computed: 0,
            runs: vec![run(CfgBranch::Cond, cond), run(CfgBranch::Uncond, uncond)],
        })
        .collect()
}
