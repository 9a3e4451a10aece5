//! The cache decision of each step of each picture, with its reason: the JSON of `--cache-trace`, and the data of
//! `--cache-plot`.
//!
//! The prompt is left out, so that a trace can be shared.

use cache::CacheConfig;
use diffusion::StepReport;
use serde::{Deserialize, Serialize};

/// The trace of one picture.
#[derive(Serialize)]
pub struct PictureTrace<'a> {
    model: &'a str,
    seed: u64,
    steps: usize,
    trace: Vec<TraceEntry>,
}

/// The decision for one branch in one segment in one step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TraceEntry {
    /// Index of the step, from 0.
    pub step: usize,
    /// The guidance branch.
    pub branch: String,
    /// The list of blocks.
    pub segment: String,
    /// The residual diff. `null` if none was measured or it is not finite.
    pub diff: Option<f32>,
    /// `reuse` or `compute`.
    pub decision: String,
    /// Reason of the decision.
    pub reason: String,
}

/// The data of a plot of one picture's steps.
#[derive(Debug, Serialize, Deserialize)]
pub struct CachePlotData {
    /// Title above the plot.
    pub title: String,
    /// Reuse threshold of each segment, in the segments' order.
    pub thresholds: Vec<f64>,
    /// The steps.
    pub trace: Vec<TraceEntry>,
}

impl<'a> PictureTrace<'a> {
    /// The trace of a picture made by `model`.
    pub fn new(model: &'a str, seed: u64, steps: &[StepReport]) -> Self {
        PictureTrace { model, seed, steps: steps.len(), trace: entries(steps) }
    }
}

impl CachePlotData {
    /// The plot data of one picture's steps under `config`.
    pub fn new(title: String, steps: &[StepReport], config: &CacheConfig) -> Self {
        let trace = entries(steps);
        let factors = (0..segments(&trace).len()).map(|segment| config.segment_threshold_factor(segment));
        let thresholds = factors.map(|factor| config.residual_diff_threshold * factor).collect();
        CachePlotData { title, thresholds, trace }
    }

    /// The names of the segments, in their order.
    pub fn segments(&self) -> Vec<&str> {
        segments(&self.trace)
    }
}

fn entries(steps: &[StepReport]) -> Vec<TraceEntry> {
    let runs = steps.iter().flat_map(|step| step.runs.iter().map(|run| (step.step_index, run)));
    let entry = |(step, run): (usize, &diffusion::BlockRun)| TraceEntry {
        step,
        branch: run.branch.name().to_owned(),
        segment: run.segment.to_string(),
        diff: run.residual_diff.filter(|diff| diff.is_finite()),
        decision: if run.reused { "reuse" } else { "compute" }.into(),
        reason: run.reason.to_string(),
    };
    runs.map(entry).collect()
}

fn segments(trace: &[TraceEntry]) -> Vec<&str> {
    let mut segments = Vec::new();
    for entry in trace {
        if !segments.contains(&entry.segment.as_str()) {
            segments.push(&entry.segment);
        }
    }
    segments
}

#[cfg(test)]
mod tests {
    use super::*;
    use diffusion::testing::steps;
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

    #[test]
    fn thresholds_follow_their_segment() {
        let mut steps = steps("s", "s");
        steps[0].runs[1].segment = "single_transformer_blocks";
        let config = CacheConfig { segment_threshold_factors: vec![1.0, 3.0], ..CacheConfig::default() };
        let data = CachePlotData::new(String::new(), &steps, &config);
        assert_eq!(data.segments(), ["transformer_blocks", "single_transformer_blocks"]);
        assert_eq!(data.thresholds, [0.24, 0.24 * 3.0]);
    }
}
