//! The settings of `latentd serve` as typed on the command line, in the environment or in a file, and their resolution.
//!
//! Only clap's parser knows the valid values. It parses each setting alone, so that all mistakes are reported at once,
//! and then all settings together. The command line overrides the environment, and the environment overrides the file.

use std::ffi::{OsStr, OsString};

use clap::builder::{BoolishValueParser, PossibleValue, Resettable, TypedValueParser};
use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use latentd::Error;

use super::Serve;
use super::config_file;
use super::mistakes::Mistakes;
use super::setting::{Origin, Setting, is_switch};
use crate::commands::host::Host;
use latentd::trimmed;

/// The settings of the command line and the environment, not checked yet.
pub(crate) struct Typed(Vec<Setting>);

impl Typed {
    pub(crate) fn run(mut self) -> Result<(), Error> {
        let links = self.without_service_links();
        let mut mistakes = Mistakes::default();
        let serve = self.meant(&mut mistakes);
        let settled = serve.and_then(|serve| serve.settle(&mut mistakes));
        match settled.filter(|_| mistakes.is_empty()) {
            Some(settled) => settled.run(&links),
            None => Err(mistakes.into()),
        }
    }

    /// Removes and returns the service links: variables that Kubernetes and Docker set for a service named `latentd`.
    pub(super) fn without_service_links(&mut self) -> Vec<Setting> {
        let links = self.0.extract_if(.., |setting| setting.is_service_link());
        links.collect()
    }

    #[cfg(test)]
    pub(super) fn of(settings: Vec<Setting>) -> Self {
        Typed(settings)
    }

    /// Merges these settings with those of the file that they name, which they override. Unknown settings and invalid
    /// values are left out and noted.
    pub(super) fn meant(mut self, mistakes: &mut Mistakes) -> Option<Serve> {
        let config = self.0.iter().find(|setting| setting.key == "config");
        if let Some(path) = config.and_then(|setting| setting.values.first()) {
            let in_file = config_file::read(path.as_ref(), &command(), mistakes);
            let is_new = |setting: &Setting| self.0.iter().all(|known| known.key != setting.key);
            let added: Vec<_> = in_file.into_iter().filter(is_new).collect();
            self.0.extend(added);
        }
        for setting in self.0.iter().filter(|setting| setting.origin != Origin::Flag) {
            mistakes.stands(setting.flag(), setting.to_string());
        }
        self.0.retain(|setting| match parse(std::slice::from_ref(setting)) {
            Ok(_) => true,
            Err(err) => {
                mistakes.note_setting(&setting.key, format!("{setting}: {}", reason(&err, setting)));
                false
            }
        });
        match parse(&self.0) {
            Ok(serve) => Some(serve),
            // Each setting alone is valid, so this error is about a combination.
            Err(err) => {
                mistakes.note(first_line(&err));
                None
            }
        }
    }
}

/// The address on which a server with these flags and variables listens. It resolves like [`Typed`], without the other
/// settings.
///
/// # Errors
/// The port or the host is invalid; the message names its origin.
pub(crate) fn address(
    flags: [(&str, Option<&OsString>); 2],
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<(Host, u16), Error> {
    let flags = flags.into_iter().filter_map(|(key, value)| {
        Some(Setting { key: key.into(), values: vec![value?.clone()], origin: Origin::Flag })
    });
    let command = command();
    let variables = command.get_arguments().filter_map(|arg| {
        let (key, name) = (arg.get_id().to_string(), arg.get_env()?.to_str()?);
        let value = Some(trimmed(&variable(name)?)).filter(|value| !value.is_empty())?;
        ["config", "host", "port"].contains(&key.as_str()).then(|| Setting {
            key,
            values: vec![value],
            origin: Origin::Variable(name.into()),
        })
    });
    let mut typed = Typed(flags.chain(variables).collect());
    typed.without_service_links();
    // Mistakes in the rest of the file are ignored here. The server reports them.
    let config = typed.0.iter().find(|setting| setting.key == "config").and_then(|setting| setting.values.first());
    let in_file =
        config.map(|path| config_file::read(path.as_ref(), &command, &mut Mistakes::default())).unwrap_or_default();
    typed.0.extend(in_file);
    let known = |key: &str| typed.0.iter().find(|setting| setting.key == key).cloned();
    let settings: Vec<_> = ["host", "port"].into_iter().filter_map(known).collect();
    let mut mistakes = Mistakes::default();
    let serve = Typed(settings).meant(&mut mistakes);
    serve.filter(|_| mistakes.is_empty()).map(|serve| (serve.host, serve.port)).ok_or_else(|| mistakes.into())
}

/// Clap's definition of the flags of `serve`.
pub(super) fn command() -> Command {
    Serve::augment_args(Command::new("serve"))
}

fn parse(settings: &[Setting]) -> Result<Serve, clap::Error> {
    let strict = command().no_binary_name(true).mut_args(|arg| {
        let arg = arg.env(Resettable::Reset);
        if !is_switch(&arg) {
            return arg;
        }
        // In the environment and in a file, a switch has a value.
        arg.action(ArgAction::Set).num_args(1).default_value("false").value_parser(BoolishValueParser::new())
    });
    let (positional, flags): (Vec<_>, Vec<_>) = settings.iter().partition(|setting| setting.key == "model");
    let flags = flags.into_iter().flat_map(|setting| {
        setting.values.iter().map(|value| {
            let mut argument = OsString::from(format!("--{}=", setting.key.replace('_', "-")));
            argument.push(value);
            argument
        })
    });
    let model = positional.into_iter().flat_map(|setting| setting.values.clone());
    let arguments: Vec<_> = flags.chain(["--".into()]).chain(model).collect();
    Serve::from_arg_matches(&strict.try_get_matches_from(arguments)?)
}

/// The reason why the value of one setting is invalid.
fn reason(err: &clap::Error, setting: &Setting) -> String {
    let given: Vec<_> = setting.values.iter().map(|value| value.to_string_lossy()).collect();
    let given = given.join(",");
    if let Some(ContextValue::Strings(names)) = err.get(ContextKind::ValidValue)
        && !names.is_empty()
    {
        return format!("must be one of {}. Given: {given}", names.join(", "));
    }
    match std::error::Error::source(err) {
        Some(reason) => format!("{}. Given: {given}", plain(&reason.to_string(), &setting.key)),
        None => first_line(err),
    }
}

/// Rewords the messages of Rust's own parsers, which do not name the bound or name it in Rust's syntax.
fn plain(reason: &str, key: &str) -> String {
    if reason.contains("ByteSize") || reason.contains("SI unit") {
        return "must be a number of bytes, such as 4GiB or 500MB".into();
    }
    if let Some(range) = range(reason) {
        return format!("must be a whole number {range}");
    }
    let of_rust = ["invalid digit found in string", "cannot parse integer from empty string", "number too "];
    if !of_rust.iter().any(|beginning| reason.starts_with(beginning)) {
        return reason.to_owned();
    }
    // A number that is too large makes clap name the range.
    let largest = Setting { key: key.into(), values: vec![i64::MAX.to_string().into()], origin: Origin::Flag };
    let refused = parse(&[largest]).err();
    let range = refused.and_then(|err| range(&std::error::Error::source(&err)?.to_string()));
    range.map_or_else(|| "must be a whole number".into(), |range| format!("must be a whole number {range}"))
}

/// The range in clap's message `0 is not in 1..=9`, in words.
fn range(reason: &str) -> Option<String> {
    let (_, range) = reason.split_once(" is not in ")?;
    let (least, most) = range.split_once("..")?;
    Some(match most.strip_prefix('=') {
        Some(most) => format!("from {least} to {most}"),
        None => format!("of at least {least}"),
    })
}

fn first_line(err: &clap::Error) -> String {
    let text = err.to_string();
    text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

impl Args for Typed {
    fn augment_args(command: Command) -> Command {
        Serve::augment_args(command).mut_args(|arg| {
            let values = arg.get_possible_values();
            arg.value_parser(AsTyped(values))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Typed {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let command = command();
        let settings = command.get_arguments().filter_map(|arg| {
            let key = arg.get_id().as_str();
            let origin = match matches.value_source(key)? {
                ValueSource::CommandLine => Origin::Flag,
                ValueSource::EnvVariable => Origin::Variable(arg.get_env()?.to_string_lossy().into_owned()),
                _ => return None,
            };
            let values = matches.get_raw(key)?;
            let values = match origin {
                Origin::Variable(_) => values.map(trimmed).collect(),
                _ => values.map(OsStr::to_owned).collect(),
            };
            Some(Setting { key: key.to_owned(), values, origin })
        });
        Ok(Typed(settings.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// A value parser that accepts any text. The help still lists the valid values.
#[derive(Clone)]
struct AsTyped(Vec<PossibleValue>);

impl TypedValueParser for AsTyped {
    type Value = OsString;

    fn parse_ref(&self, _: &Command, _: Option<&Arg>, value: &OsStr) -> Result<OsString, clap::Error> {
        Ok(value.to_owned())
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        (!self.0.is_empty()).then(|| Box::new(self.0.iter().cloned()) as Box<dyn Iterator<Item = PossibleValue>>)
    }
}
