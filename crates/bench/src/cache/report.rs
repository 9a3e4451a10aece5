//! The results, as JSON for programs and as Markdown for people.

use std::fmt::Write;

use serde::Serialize;
use serde_json::Value;

use super::decision::DecisionCost;
use super::summary::{FewerSteps, PictureScore, Summary};

/// All results.
#[derive(Serialize)]
pub(super) struct CacheComparison {
    pub(super) model: String,
    pub(super) size: String,
    pub(super) true_cfg_scale: f64,
    pub(super) negative_prompt: Option<String>,
    /// Seed of the first prompt; it counts up from prompt to prompt.
    pub(super) seed: i64,
    pub(super) prompts: Vec<String>,
    pub(super) step_counts: Vec<StepCount>,
    pub(super) decision: Option<DecisionCost>,
    pub(super) warnings: Vec<String>,
}

/// The results for one step count of the uncached pictures.
#[derive(Serialize)]
pub(super) struct StepCount {
    pub(super) num_inference_steps: usize,
    /// Time of all steps of the uncached picture, for each prompt.
    pub(super) uncached_ms: Vec<f64>,
    pub(super) configurations: Vec<Configuration>,
    pub(super) fewer_steps: Vec<Configuration>,
}

/// A configuration, or an uncached run with fewer steps.
#[derive(Serialize)]
pub(super) struct Configuration {
    pub(super) name: String,
    /// The keys as typed; `null` for an uncached run.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub(super) config: Value,
    /// The sampler, if one was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sampler: Option<&'static str>,
    #[serde(flatten)]
    pub(super) summary: Summary,
    /// Whether the configuration is on the Pareto frontier: no other computes as little and is as good.
    pub(super) is_best: bool,
    pub(super) pictures: Vec<PictureScore>,
}

impl CacheComparison {
    /// A line with the model, the size and the number of prompts.
    pub(super) fn title(&self) -> String {
        format!("{}, {}, {} prompts", self.model, self.size, self.prompts.len())
    }

    /// One table per step count. Configurations on the Pareto frontier are bold.
    pub(super) fn markdown(&self) -> String {
        let mut text = String::new();
        for count in &self.step_counts {
            _ = writeln!(text, "{}", count.markdown());
        }
        if let Some(cost) = &self.decision {
            _ = writeln!(
                text,
                "A decision takes {:.1} us: the rules {:.2}, the diffs of {} passes of {} x {} {:.1}. \
                 That is {:.2} % of a step of {:.0} us.",
                cost.rules_us + cost.diffs_us,
                cost.rules_us,
                cost.passes,
                cost.tokens,
                cost.width,
                cost.diffs_us,
                cost.share_of_step * 100.0,
                cost.step_us
            );
        }
        text
    }
}

impl StepCount {
    /// PSNR of uncached pictures in fewer steps.
    pub(super) fn fewer_steps_line(&self) -> FewerSteps {
        FewerSteps::new(&self.fewer_steps.iter().map(|count| count.summary).collect::<Vec<_>>())
    }

    fn markdown(&self) -> String {
        let line = self.fewer_steps_line();
        let mut text = format!(
            "| {} steps | computed | speedup | PSNR (worst) | SSIM (worst) | GMSD (worst) | against as many steps | \
             against the same time |\n|---|---|---|---|---|---|---|---|\n",
            self.num_inference_steps
        );
        for configuration in &self.configurations {
            let summary = &configuration.summary;
            let gain = |share| gain(summary.psnr, line.at(share));
            let (steps, time) = (gain(summary.computed), gain(1.0 / summary.speedup));
            _ = writeln!(text, "| {} | {} | {steps} | {time} |", configuration.title(), cells(summary));
        }
        for count in &self.fewer_steps {
            _ = writeln!(text, "| {} | {} | | |", count.title(), cells(&count.summary));
        }
        text
    }
}

impl Configuration {
    /// Whether the configuration follows a plan of a calibrated model.
    pub(super) fn is_plan(&self) -> bool {
        ["budget", "psnr"].iter().any(|key| self.config.get(key).is_some())
    }

    fn title(&self) -> String {
        if self.is_best { format!("**{}**", self.name) } else { self.name.clone() }
    }
}

/// The table cells of a summary.
fn cells(summary: &Summary) -> String {
    let psnr = match (summary.psnr, summary.psnr_worst) {
        (Some(mean), Some(worst)) => format!("{mean:.1} ({worst:.1})"),
        _ => "identical".into(),
    };
    let Summary { computed, speedup, ssim, ssim_worst, gmsd, gmsd_worst, .. } = summary;
    format!("{computed:.3} | {speedup:.2} | {psnr} | {ssim:.4} ({ssim_worst:.3}) | {gmsd:.4} ({gmsd_worst:.3})")
}

/// Difference to the line of fewer steps, in dB; a dash if there is nothing to compare.
fn gain(psnr: Option<f64>, line: Option<f64>) -> String {
    match (psnr, line) {
        (Some(psnr), Some(line)) => format!("{:+.1}", psnr - line),
        _ => "-".into(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn configuration(name: &str, computed: f64, psnr: Option<f64>) -> Configuration {
        let speedup = 1.0 / computed;
        let (ssim, ssim_worst, gmsd, gmsd_worst) = (0.9, 0.8, 0.01, 0.02);
        let summary = Summary { computed, speedup, psnr, psnr_worst: psnr, ssim, ssim_worst, gmsd, gmsd_worst };
        let (name, config, is_best) = (name.to_owned(), Value::Null, !["good", "bad"].contains(&name));
        Configuration { name, config, sampler: None, summary, is_best, pictures: Vec::new() }
    }

    /// One step count: a configuration above the line, one below it, one whose pictures are identical, and a plan.
    pub(in super::super) fn report() -> CacheComparison {
        let step_count = StepCount {
            num_inference_steps: 20,
            uncached_ms: vec![400.0],
            configurations: vec![
                configuration("good", 0.4, Some(45.0)),
                configuration("bad", 0.6, Some(38.0)),
                configuration("lossless", 1.0, None),
                Configuration { config: serde_json::json!({"budget": 0.3}), ..configuration("plan", 0.3, Some(46.0)) },
            ],
            fewer_steps: vec![
                configuration("16 steps", 0.8, Some(50.0)),
                Configuration { sampler: Some("heun"), is_best: false, ..configuration("8 of heun", 0.8, Some(48.0)) },
                configuration("4 steps", 0.2, Some(30.0)),
            ],
        };
        CacheComparison {
            model: "a-model".into(),
            size: "128x128".into(),
            true_cfg_scale: 3.0,
            negative_prompt: None,
            seed: 0,
            prompts: vec!["a fox".into()],
            step_counts: vec![step_count],
            decision: None,
            warnings: Vec::new(),
        }
    }

    #[test]
    fn a_table_compares_with_fewer_steps() {
        let expected = "\
| 20 steps | computed | speedup | PSNR (worst) | SSIM (worst) | GMSD (worst) | against as many steps | against the same time |
|---|---|---|---|---|---|---|---|
| good | 0.400 | 2.50 | 45.0 (45.0) | 0.9000 (0.800) | 0.0100 (0.020) | +5.0 | +5.0 |
| bad | 0.600 | 1.67 | 38.0 (38.0) | 0.9000 (0.800) | 0.0100 (0.020) | -7.8 | -7.8 |
| **lossless** | 1.000 | 1.00 | identical | 0.9000 (0.800) | 0.0100 (0.020) | - | - |
| **plan** | 0.300 | 3.33 | 46.0 (46.0) | 0.9000 (0.800) | 0.0100 (0.020) | +10.2 | +10.2 |
| **16 steps** | 0.800 | 1.25 | 50.0 (50.0) | 0.9000 (0.800) | 0.0100 (0.020) | | |
| 8 of heun | 0.800 | 1.25 | 48.0 (48.0) | 0.9000 (0.800) | 0.0100 (0.020) | | |
| **4 steps** | 0.200 | 5.00 | 30.0 (30.0) | 0.9000 (0.800) | 0.0100 (0.020) | | |

";
        assert_eq!(report().markdown(), expected);
    }

    #[test]
    fn the_decisions_cost_stands_below() {
        let decision = DecisionCost {
            passes: 2,
            tokens: 64,
            width: 160,
            rules_us: 0.5,
            diffs_us: 9.5,
            step_us: 2000.0,
            share_of_step: 0.005,
        };
        let report = CacheComparison { decision: Some(decision), ..report() };
        let last = report.markdown().lines().last().unwrap().to_owned();
        assert_eq!(
            last,
            "A decision takes 10.0 us: the rules 0.50, the diffs of 2 passes of 64 x 160 9.5. That is 0.50 % of a step of 2000 us."
        );
    }

    #[test]
    fn json_keeps_a_summary_beside_its_name() {
        let json = serde_json::to_value(report()).unwrap();
        let first = &json["step_counts"][0]["configurations"][0];
        assert_eq!((&first["name"], &first["computed"]), (&"good".into(), &0.4.into()));
        assert_eq!(json["step_counts"][0]["configurations"][2]["psnr"], Value::Null);
    }
}
