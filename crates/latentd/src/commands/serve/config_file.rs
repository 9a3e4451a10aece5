//! `--config FILE`: the settings of `latentd serve` in TOML, one key per flag.

use std::path::Path;

use clap::{Arg, ArgAction, Command};
use latentd::Error;
use toml::{Table, Value};

use super::mistakes::Mistakes;
use super::setting::{Origin, Setting, is_switch};

/// Minimum similarity of a known key, from 0 to 1, to be suggested for an unknown one.
const ALIKE: f64 = 0.7;

/// Reads the settings of a file, whose keys are flags of `command`. Unknown keys and values of a wrong type are noted
/// as mistakes.
pub(super) fn read(path: &Path, command: &Command, mistakes: &mut Mistakes) -> Vec<Setting> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|source| Error::File { action: "read", path: path.display().to_string(), source });
    let Some(text) = mistakes.take(text) else { return Vec::new() };
    settings(&text, path, command, mistakes)
}

fn settings(text: &str, path: &Path, command: &Command, mistakes: &mut Mistakes) -> Vec<Setting> {
    // Some editors begin a file with a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let table = match text.parse::<Table>() {
        Ok(table) => table,
        Err(err) => {
            let line = err.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            mistakes.note(format!("{}, line {line}: {}", path.display(), err.message()));
            return Vec::new();
        }
    };
    let mut settings = Vec::new();
    for (key, value) in &table {
        let read = match keys(command).find(|arg| arg.get_id().as_str() == key) {
            Some(arg) => values(value, arg),
            None => Err(format!("is not a setting{}", near(command, key))),
        };
        match read {
            Ok(values) => {
                let values = values.into_iter().map(Into::into).collect();
                settings.push(Setting { key: key.clone(), values, origin: Origin::File(path.to_owned()) });
            }
            Err(reason) => mistakes.note_setting(key, format!("{}: `{key}` {reason}", path.display())),
        }
    }
    settings
}

/// The flags that can be keys of a file: all except those for the command line only.
pub(super) fn keys(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| !arg.is_hide_set() && arg.get_id() != "config")
}

fn near(command: &Command, key: &str) -> String {
    let key = key.replace('-', "_");
    let alike = keys(command).map(|arg| (strsim::normalized_levenshtein(&key, arg.get_id().as_str()), arg.get_id()));
    let best = alike.filter(|(alike, _)| *alike >= ALIKE).max_by(|(a, _), (b, _)| a.total_cmp(b));
    best.map(|(_, known)| format!(". Near: {known}")).unwrap_or_default()
}

/// Converts a TOML value to the flag's values on a command line.
fn values(value: &Value, arg: &Arg) -> Result<Vec<String>, String> {
    let must = |bound: &str| Err(format!("must be {bound}, not {}", article(value.type_str())));
    match value {
        Value::Boolean(_) if !is_switch(arg) => must("a text or a number"),
        value if is_switch(arg) && !value.is_bool() => must("true or false"),
        Value::Array(items) if matches!(arg.get_action(), ArgAction::Append) => {
            let scalars = items.iter().map(|item| scalar(item).filter(|_| !item.is_bool()));
            scalars.collect::<Option<_>>().map_or_else(|| must("a list of texts"), Ok)
        }
        // The only setting whose value is a table.
        Value::Table(table) if arg.get_id() == "cache_config" => {
            Ok(vec![serde_json::to_string(table).expect("TOML's values are JSON's. This is a bug.")])
        }
        value => scalar(value).map_or_else(|| must("a single value"), |text| Ok(vec![text])),
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Boolean(flag) => Some(flag.to_string()),
        Value::Datetime(_) | Value::Array(_) | Value::Table(_) => None,
    }
}

/// A value's type with its article. Unlike a secret value, its type can be shown in a message.
fn article(kind: &str) -> String {
    let is_vowel = kind.starts_with(['a', 'i']);
    format!("{} {kind}", if is_vowel { "an" } else { "a" })
}
