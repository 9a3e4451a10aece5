//! `latentd cache simulate`: prints the cache's decisions for measured diffs.

use std::path::PathBuf;

use latentd::Error;

use super::diffs;
use super::scenario::Scenario;
use latentd::terminal;

/// Play measured diffs through the cache: one line of decisions per branch, 1 computed and C reused
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  latentd cache simulate --cache-config '{\"residual_diff_threshold\":0.12}' --steps 28 --diffs diffs.txt --cfg"
)]
pub(super) struct Simulate {
    /// Transformer blocks
    #[arg(long, default_value_t = 60, value_name = "N")]
    blocks: usize,
    /// File with one line per step and one column per branch, separated by spaces or commas. Values of a step that
    /// needs no diff, such as the first, are ignored
    #[arg(long, value_name = "FILE")]
    diffs: PathBuf,
    /// Two branches, cond and uncond: two columns
    #[arg(long)]
    cfg: bool,
    #[command(flatten)]
    scenario: Scenario,
}

impl Simulate {
    pub(super) fn run(self) -> Result<(), Error> {
        let (steps, config) = (self.scenario.steps()?, self.scenario.config(&[self.blocks])?);
        let text = std::fs::read_to_string(&self.diffs).map_err(|source| Error::File {
            action: "read",
            path: self.diffs.display().to_string(),
            source,
        })?;
        let diffs = diffs::parse(&text)?;
        let branches = if self.cfg { 2 } else { 1 };
        let (stats, warnings) = cache::simulate(&config, steps, self.blocks, branches, &diffs)
            .map_err(|err| Error::Flag(format!("`--diffs`: {err}")))?;
        for warning in warnings {
            terminal::notice(&format!("warning: {warning}"));
        }
        for run in stats.runs() {
            terminal::line(&run.decisions());
        }
        Ok(())
    }
}
