//! `latentd bench`: where the time of a picture goes, what the step cache gains and costs, and how a server bears load.

mod cache;
mod median;
mod serve;
mod stages;
mod synthetic;

use latentd::Error;

/// Time the stages of a picture: loading, text encoding, a step, decoding, end to end
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Bench {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    stages: stages::Stages,
}

#[derive(clap::Subcommand)]
enum Command {
    // Boxed, for its many flags: the variants are then of one size.
    Cache(Box<cache::Cache>),
    Serve(serve::Serve),
}

impl Bench {
    pub(super) fn run(self) -> Result<(), Error> {
        match self.command {
            None => self.stages.run(),
            Some(Command::Cache(cache)) => cache.run(),
            Some(Command::Serve(serve)) => serve.run(),
        }
    }
}
