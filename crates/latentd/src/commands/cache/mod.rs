//! `latentd cache`: shows what a cache configuration does, without a model; calibrates a model.

mod calibrate;
mod diffs;
mod plan;
mod scenario;
mod simulate;

use latentd::Error;

/// Look at a step-cache configuration without a model, or measure a model for plans
#[derive(clap::Args)]
pub(super) struct Cache {
    #[command(subcommand)]
    command: CacheCommand,
}

#[derive(clap::Subcommand)]
enum CacheCommand {
    Calibrate(Box<calibrate::Calibrate>),
    Plan(plan::Plan),
    Simulate(simulate::Simulate),
}

impl Cache {
    pub(super) fn run(self) -> Result<(), Error> {
        match self.command {
            CacheCommand::Calibrate(calibrate) => calibrate.run(),
            CacheCommand::Plan(plan) => plan.run(),
            CacheCommand::Simulate(simulate) => simulate.run(),
        }
    }
}
