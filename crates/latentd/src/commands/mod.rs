//! The commands of the binary, one file each.

mod bench;
mod cache;
mod cache_reports;
mod edit;
mod generate;
mod healthcheck;
mod host;
mod memory;
mod models;
mod picture_flags;
mod scheduling;
mod serve;

use std::ffi::OsString;

use clap::{CommandFactory, FromArgMatches};
use latentd::{Error, logging, without_blank};

use crate::build;

/// Serve and generate pictures with diffusion transformers
#[derive(clap::Parser)]
#[command(
    name = "latentd",
    version = build::line(),
    after_help = "Start here:\n  latentd generate \"a fox on a green background\" -o fox.png\n  latentd serve --port 8091"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Generate(generate::Generate),
    #[command(alias = "image-edit")]
    Edit(edit::Edit),
    Serve(serve::Typed),
    Bench(bench::Bench),
    Cache(cache::Cache),
    Models(models::Models),
    Healthcheck(healthcheck::Healthcheck),
}

impl Cli {
    /// Parses the arguments and the environment. Exits the program for help, and for arguments that are wrong.
    pub(crate) fn of(arguments: impl Iterator<Item = OsString>) -> Self {
        let command = without_blank(Cli::command(), &|name| std::env::var_os(name));
        Cli::from_arg_matches(&command.get_matches_from(arguments)).unwrap_or_else(|err| err.exit())
    }

    /// Runs the command.
    pub(crate) fn run(self) -> Result<(), Error> {
        // `serve` starts its own log, from its settings.
        if !matches!(self.command, Command::Serve(_)) {
            logging::init_text();
        }
        match self.command {
            Command::Generate(generate) => generate.run(),
            Command::Edit(edit) => edit.run(),
            Command::Serve(typed) => typed.run(),
            Command::Bench(bench) => bench.run(),
            Command::Cache(cache) => cache.run(),
            Command::Models(models) => models.run(),
            Command::Healthcheck(healthcheck) => healthcheck.run(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blank_variable_is_not_set_unless_it_is_to_hold_a_key() {
        let of = |command: &clap::Command, path: &[&str]| {
            let command = path.iter().fold(command, |command, name| command.find_subcommand(name).unwrap());
            let named = command.get_arguments().filter_map(|arg| Some(arg.get_env()?.to_str()?.to_owned()));
            named.collect::<Vec<_>>()
        };
        let (all, none) = (Cli::command(), without_blank(Cli::command(), &|_| Some(" \n".into())));
        let set = without_blank(Cli::command(), &|_| Some("x".into()));
        for path in [&["serve"][..], &["generate"], &["edit"], &["cache", "calibrate"]] {
            assert_eq!(of(&set, path), of(&all, path), "{path:?}");
            let kept = if path == ["serve"] { vec!["LATENTD_API_KEY"] } else { Vec::new() };
            assert_eq!(of(&none, path), kept, "{path:?}");
        }
        assert!(of(&all, &["serve"]).contains(&"LATENTD_PORT".into()));
    }
}
