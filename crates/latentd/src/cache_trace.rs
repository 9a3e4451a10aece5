//! `--cache-trace`: what each step of each picture did and why, as JSON, for a program to read.
//!
//! The prompt is left out, so that a trace can be shown to others.

use diffusion::StepReport;
use serde::Serialize;

/// One picture.
#[derive(Serialize)]
pub(crate) struct PictureTrace<'a> {
    model: &'a str,
    seed: u64,
    steps: usize,
    trace: Vec<Entry>,
}

/// One branch in one segment in one step.
#[derive(Serialize)]
struct Entry {
    step: usize,
    branch: &'static str,
    segment: &'static str,
    /// `null` where none was measured or what was measured is not a number.
    diff: Option<f32>,
    decision: &'static str,
    reason: &'static str,
}

impl<'a> PictureTrace<'a> {
    pub(crate) fn new(model: &'a str, seed: u64, steps: &[StepReport]) -> Self {
        let runs = steps.iter().flat_map(|step| step.runs.iter().map(|run| (step.step_index, run)));
        let trace = runs.map(|(step, run)| Entry {
            step,
            branch: run.branch.name(),
            segment: run.segment,
            diff: run.residual_diff,
            decision: if run.reused { "reuse" } else { "compute" },
            reason: run.reason,
        });
        PictureTrace { model, seed, steps: steps.len(), trace: trace.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::steps;
    use serde_json::json;

    #[test]
    fn an_entry_for_each_branch_of_each_step() {
        let mut steps = steps("Ws", "Wd");
        steps[1].runs[1].residual_diff = Some(f32::NAN);
        let trace = serde_json::to_value(PictureTrace::new("latentd/builtin", 7, &steps)).unwrap();
        let entry = |step, branch, diff: Option<f32>, decision, reason| {
            json!({
                "step": step, "branch": branch, "segment": "transformer_blocks",
                "diff": diff, "decision": decision, "reason": reason,
            })
        };
        let expected = json!({
            "model": "latentd/builtin", "seed": 7, "steps": 2,
            "trace": [
                entry(0, "cond", None, "compute", "warmup"),
                entry(0, "uncond", None, "compute", "warmup"),
                entry(1, "cond", Some(0.1), "reuse", "similar"),
                entry(1, "uncond", None, "compute", "different"),
            ],
        });
        assert_eq!(trace, expected);
    }
}
