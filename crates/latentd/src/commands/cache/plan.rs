//! `latentd cache plan`: shows which steps a configuration computes, as far as that is known before the first step.

use std::fmt::Write;

use cache::{CacheConfig, CachePlan};
use latentd::Error;
use serde::Serialize;

use super::scenario::Scenario;
use latentd::terminal;

/// Steps per line: fifty fit on a terminal of 80 columns.
const STEPS_A_LINE: usize = 50;

/// Show the mask, the forced steps and the largest speedup of a cache configuration
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  latentd cache plan --steps 28\n  latentd cache plan --cache-config '{\"scm_steps_mask_policy\":\"medium\"}' --steps 28 --blocks 5,20"
)]
pub(super) struct Plan {
    /// Number of transformer blocks; for several lists of blocks one number per list
    #[arg(long, value_delimiter = ',', default_value = "60", value_name = "N")]
    blocks: Vec<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    scenario: Scenario,
}

/// The plan as JSON.
#[derive(Serialize)]
struct PlanReport<'a> {
    steps: usize,
    blocks: &'a [usize],
    mask: Option<&'a str>,
    forced: &'a str,
    best_case: &'a str,
    /// Number of computed steps in the best case.
    computed_steps: usize,
    /// Number of reused steps in the best case.
    reused_steps: usize,
    max_speedup: f64,
    warnings: Vec<String>,
}

impl Plan {
    pub(super) fn run(self) -> Result<(), Error> {
        let (steps, config) = (self.scenario.steps()?, self.scenario.config(&self.blocks)?);
        let plan = cache::plan(&config, steps, &self.blocks);
        let report = PlanReport::new(&plan, steps, &self.blocks);
        if self.json {
            terminal::line(&serde_json::to_string(&report).expect("strings and numbers make JSON. This is a bug."));
        } else {
            terminal::print(&text(&report, &config));
        }
        Ok(())
    }
}

impl<'a> PlanReport<'a> {
    fn new(plan: &'a CachePlan, steps: usize, blocks: &'a [usize]) -> Self {
        let reused_steps = plan.best_case.matches('C').count();
        PlanReport {
            steps,
            blocks,
            mask: plan.mask.as_deref(),
            forced: &plan.forced,
            best_case: &plan.best_case,
            computed_steps: steps - reused_steps,
            reused_steps,
            max_speedup: plan.max_speedup,
            warnings: plan.warnings.iter().map(ToString::to_string).collect(),
        }
    }
}

fn text(report: &PlanReport, config: &CacheConfig) -> String {
    let blocks: Vec<_> = report.blocks.iter().map(ToString::to_string).collect();
    let mut text = format!("{} steps, {} blocks\n{}\n", report.steps, blocks.join(" + "), settings(config));
    for first in (0..report.steps).step_by(STEPS_A_LINE) {
        let last = report.steps.min(first + STEPS_A_LINE);
        text.push('\n');
        let mut row = |name, steps: &str| _ = writeln!(text, "{name:<11}{}", steps.trim_end());
        row("step", &ruler(first, last));
        let of_line = |steps: &str| steps.chars().skip(first).take(STEPS_A_LINE).collect::<String>();
        if let Some(mask) = report.mask {
            row("mask", &of_line(mask));
        }
        row("forced", &of_line(report.forced));
        row("best case", &of_line(report.best_case));
    }
    let PlanReport { computed_steps, reused_steps, max_speedup, .. } = report;
    text += "\n1 computed, C reused, . by the diff or a limit\n";
    _ = writeln!(
        text,
        "at best {computed_steps} computed and {reused_steps} reused: a transformer at most {max_speedup:.2} times as fast"
    );
    for warning in &report.warnings {
        _ = writeln!(text, "warning: {warning}");
    }
    text
}

/// One line with the settings that shape a plan.
fn settings(config: &CacheConfig) -> String {
    let in_a_row = config.max_continuous_cached_steps.map_or("any number".into(), |limit| format!("at most {limit}"));
    let mut text = format!(
        "Fn {}, Bn {}, warmup {}, threshold {}, {in_a_row} reused in a row",
        config.fn_compute_blocks, config.bn_compute_blocks, config.max_warmup_steps, config.residual_diff_threshold
    );
    if let Some(limit) = config.max_cached_steps {
        _ = write!(text, ", at most {limit} in all");
    }
    if config.enable_taylorseer {
        _ = write!(text, ", TaylorSeer of order {}", config.taylorseer_order);
    }
    text
}

/// A ruler over the steps `first..last`: every tenth step's number, above that step.
fn ruler(first: usize, last: usize) -> String {
    (first..last).step_by(10).map(|step| format!("{step:<10}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan_text(json: &str, steps: usize, blocks: &[usize]) -> String {
        let config = serde_json::from_str(json).unwrap();
        let plan = cache::plan(&config, steps, blocks);
        text(&PlanReport::new(&plan, steps, blocks), &config)
    }

    #[test]
    fn a_plan_fits_a_screen() {
        let json = r#"{"scm_steps_mask_policy": "fast", "enable_taylorseer": true}"#;
        let expected = "\
8 steps, 5 + 20 blocks
Fn 1, Bn 0, warmup 4, threshold 0.24, at most 3 reused in a row, TaylorSeer of order 1

step       0
mask       11101001
forced     111.1..1
best case  111C1CC1

1 computed, C reused, . by the diff or a limit
at best 5 computed and 3 reused: a transformer at most 1.53 times as fast
";
        assert_eq!(plan_text(json, 8, &[5, 20]), expected);
    }

    #[test]
    fn a_long_plan_breaks_into_lines() {
        let text = plan_text("{}", 72, &[60]);
        assert!(text.contains("\nstep       0         10        20        30        40\n"), "{text}");
        assert!(text.contains("\nstep       50        60        70\nforced     ......................\n"), "{text}");
        assert!(text.lines().all(|line| line.len() < 80 && line.trim_end() == line), "{text}");
    }

    #[test]
    fn warnings_stand_last() {
        let text = plan_text(r#"{"max_continuous_cached_steps": -1, "max_cached_steps": 9}"#, 4, &[60]);
        assert!(text.contains("any number reused in a row, at most 9 in all\n"), "{text}");
        assert!(text.lines().last().unwrap().starts_with("warning: no step can be reused"), "{text}");
    }
}
