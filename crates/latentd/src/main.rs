//! The binary: arguments in, exit code out.

mod build;
mod cache_plot;
mod cache_trace;
mod commands;
mod logging;
mod plot;
mod terminal;
#[cfg(test)]
mod testing;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    kernels::threads_from_env();
    let cli = commands::Cli::parse_from(std::env::args_os().map(dashed));
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("error: {err}");
            ExitCode::from(err.exit_code())
        }
    }
}

/// Flags may be written with underscores, as the guide's scripts have them: `--cache_backend` is
/// `--cache-backend`. What follows a `=` is left alone.
fn dashed(argument: OsString) -> OsString {
    let Some(flag) = argument.to_str().filter(|text| text.starts_with("--")) else { return argument };
    match flag.split_once('=') {
        Some((name, value)) => format!("{}={value}", name.replace('_', "-")).into(),
        None => flag.replace('_', "-").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        commands::Cli::command().debug_assert();
    }

    #[test]
    fn underscores_in_flags_become_dashes() {
        for (typed, meant) in [
            ("--cache_backend", "--cache-backend"),
            ("--cache_config={\"max_warmup_steps\":4}", "--cache-config={\"max_warmup_steps\":4}"),
            ("a_prompt", "a_prompt"),
        ] {
            assert_eq!(dashed(typed.into()), OsString::from(meant));
        }
    }
}
