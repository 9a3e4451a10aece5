//! The binary: arguments in, exit code out.

// These macros panic on a closed pipe. `terminal` does not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod build;
mod commands;

use std::process::ExitCode;

use latentd::{dashed, terminal};

fn main() -> ExitCode {
    kernels::threads_from_env();
    kernels::return_memory();
    let cli = commands::Cli::of(dashed(std::env::args_os()));
    let chosen = kernels::instruction_set().map_err(latentd::Error::Flag);
    match chosen.and_then(|_| cli.run()).and_then(|()| terminal::check_printed()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            terminal::notice(&format!("error: {err}"));
            ExitCode::from(err.exit_code())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use clap::CommandFactory;
    use latentd::OTHER_NAMES;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        commands::Cli::command().debug_assert();
    }

    #[test]
    fn every_other_name_is_a_flag_and_in_the_help() {
        let command = commands::Cli::command();
        for (theirs, ours) in OTHER_NAMES {
            for name in ["generate", "serve"] {
                let command = command.find_subcommand(name).unwrap();
                let arguments = dashed([name, theirs, "builtin"].into_iter().map(OsString::from));
                let given = command.clone().try_get_matches_from(arguments).unwrap();
                assert!(given.value_source("offload") == Some(clap::parser::ValueSource::CommandLine), "{ours}");
                assert!(command.clone().render_long_help().to_string().contains(theirs), "{name} {theirs}");
            }
        }
    }
}
