//! Normalization of arguments and environment variables before clap parses them.

use std::ffi::{OsStr, OsString};

use clap::builder::Resettable;

/// Normalizes the spelling of flags. Underscores become dashes, because the guide's scripts write `--cache_backend` for
/// `--cache-backend`. Some of vLLM-Omni's names are translated. Text after a `=`, and arguments after `--`, stay as
/// they are.
pub fn dashed(arguments: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
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

/// Flags of vLLM-Omni, and their equivalents here.
pub const OTHER_NAMES: [(&str, &str); 2] =
    [("--enable-cpu-offload", "--offload=encoder"), ("--enable-layerwise-offload", "--offload=block")];

/// Makes `command` ignore blank environment variables, such as `LATENTD_PORT=` in an env file. The API key's variable
/// is not ignored: an empty secret must not leave a server open.
pub fn without_blank(command: clap::Command, variable: &dyn Fn(&OsStr) -> Option<OsString>) -> clap::Command {
    let command = command.mut_args(|arg| {
        let value = arg.get_env().and_then(variable);
        let is_blank = value.is_some_and(|value| trimmed(&value).is_empty());
        if is_blank && arg.get_id() != "api_key" { arg.env(Resettable::Reset) } else { arg }
    });
    command.mut_subcommands(|command| without_blank(command, variable))
}

/// Trims white space: values read from secrets and files end with a newline.
pub fn trimmed(value: &OsStr) -> OsString {
    value.to_str().map_or_else(|| value.to_owned(), |value| value.trim().into())
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
