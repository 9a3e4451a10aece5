//! The binary: arguments in, exit code out.

// They panic where nobody reads any more. `terminal` does not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

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

/// Flags may be written with underscores, as the guide's scripts have them: `--cache_backend` is
/// `--cache-backend`; and some as vLLM-Omni names them. What follows a `=` is left alone, and so is all that follows a `--`:
/// those are no flags.
fn dashed(arguments: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    let mut are_flags = true;
    arguments.map(move |argument| {
        are_flags &= argument != "--";
        if are_flags { dashed_flag(argument) } else { argument }
    })
}

fn dashed_flag(argument: OsString) -> OsString {
    let Some(flag) = argument.to_str().filter(|text| text.starts_with("--")) else { return argument };
    match flag.split_once('=') {
        Some((name, value)) => format!("{}={value}", name.replace('_', "-")).into(),
        None => {
            let flag = flag.replace('_', "-");
            let ours = OTHER_NAMES.iter().find(|(theirs, _)| *theirs == flag).map(|(_, ours)| (*ours).to_owned());
            ours.unwrap_or(flag).into()
        }
    }
}

/// Flags of vLLM-Omni, and what they are here.
const OTHER_NAMES: [(&str, &str); 2] =
    [("--enable-cpu-offload", "--offload=encoder"), ("--enable-layerwise-offload", "--offload=block")];

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
        let dashed = |typed: &[&str]| {
            let meant = dashed(typed.iter().map(OsString::from)).map(|argument| argument.into_string().unwrap());
            meant.collect::<Vec<_>>()
        };
        for (typed, meant) in [
            ("--cache_backend", "--cache-backend"),
            ("--cache_config={\"max_warmup_steps\":4}", "--cache-config={\"max_warmup_steps\":4}"),
            ("a_prompt", "a_prompt"),
            ("--enable-cpu-offload", "--offload=encoder"),
            ("--enable_layerwise_offload", "--offload=block"),
            ("--enable-layerwise-offload=", "--enable-layerwise-offload="),
        ] {
            assert_eq!(dashed(&[typed]), [meant]);
        }
        assert_eq!(dashed(&["--a_b", "--", "--a_b", "--"]), ["--a-b", "--", "--a_b", "--"]);
        assert_eq!(dashed(&["--", "--enable-cpu-offload"]), ["--", "--enable-cpu-offload"]);
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
