//! `latentd-bench`: benchmarks of a picture's stages, of the step cache, and of a server under load.
//!
//! `latentd bench` runs it. It is a separate program, so that the server contains no plotting and no load generator.

// These macros panic on a closed pipe. `latentd::terminal` does not.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod cache;
mod cache_plot;
mod gmsd;
mod median;
mod plot;
mod serve;
mod simulate;
mod simulation;
mod stages;
mod synthetic;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use latentd::{Error, dashed, logging, terminal, without_blank};

/// Time the stages of a picture: loading, text encoding, a step, decoding, end to end
#[derive(clap::Parser)]
#[command(name = "latentd bench", version, args_conflicts_with_subcommands = true)]
struct Bench {
    #[command(subcommand)]
    command: Option<BenchCommand>,
    #[command(flatten)]
    stages: stages::Stages,
}

#[derive(clap::Subcommand)]
enum BenchCommand {
    // Boxed because of its many flags, so that the variants have similar sizes.
    Cache(Box<cache::Cache>),
    Serve(serve::Serve),
    Simulate(simulate::Simulate),
    CachePlot(cache_plot::CachePlot),
}

fn main() -> ExitCode {
    kernels::threads_from_env();
    kernels::return_memory();
    let command = without_blank(Bench::command(), &|name| std::env::var_os(name));
    let matches = command.get_matches_from(dashed(std::env::args_os()));
    let bench = Bench::from_arg_matches(&matches).unwrap_or_else(|err| err.exit());
    logging::init_text();
    let chosen = kernels::instruction_set().map_err(Error::Flag);
    match chosen.and_then(|_| bench.run()).and_then(|()| terminal::check_printed()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            terminal::notice(&format!("error: {err}"));
            ExitCode::from(err.exit_code())
        }
    }
}

impl Bench {
    fn run(self) -> Result<(), Error> {
        match self.command {
            None => self.stages.run(),
            Some(BenchCommand::Cache(cache)) => cache.run(),
            Some(BenchCommand::Serve(serve)) => serve.run(),
            Some(BenchCommand::Simulate(simulate)) => simulate.run(),
            Some(BenchCommand::CachePlot(plot)) => plot.run(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Bench::command().debug_assert();
    }
}
