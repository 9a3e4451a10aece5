//! API keys: parsing the operator's list and matching a client's key.

use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Most characters of a key's name, which is in every line of the log.
const MAX_NAME: usize = 64;

/// The keys of a server and their names. Several keys may have one name, so that a key can be replaced while the old
/// one still works. They share one limit and own the same jobs.
#[derive(Clone, Default)]
pub struct ApiKeys {
    keys: Vec<Key>,
    names: Vec<Arc<str>>,
}

/// Only a key's hash is kept, so that every comparison is of equal length.
#[derive(Clone)]
struct Key {
    hash: [u8; 32],
    /// Index of the key's name.
    holder: usize,
}

/// Why a key is invalid. The key itself is never part of the message.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// The key is empty.
    #[error("a key must not be empty")]
    Empty,
    /// There is no key after the name.
    #[error("no key follows the name before `=`: a short key that ends in `=` needs a name, as in `team-a=...`")]
    Unfollowed,
    /// A character that a header cannot carry, or that a client would trim.
    #[error("a key must be printable ASCII without spaces")]
    Unprintable,
    /// The text before the `=` is not a name.
    #[error("the name before `=` must have 1 to {MAX_NAME} letters, digits, `-`, `_` and `.`")]
    Name,
    /// The same key under two names, so a request's name would be ambiguous.
    #[error("the keys of `{0}` and `{1}` are the same")]
    Twice(Arc<str>, Arc<str>),
}

impl ApiKeys {
    /// Adds `NAME=KEY`, or a `KEY` that is named by its place, `#1` and so on. Trailing `=` are part of a key, as in
    /// base64. Surrounding white space, as at the end of files and variables, is ignored.
    ///
    /// # Errors
    /// The key is invalid, or is already in the list.
    pub fn add(&mut self, entry: &str) -> Result<(), InvalidKey> {
        let entry = entry.trim();
        let (name, key) = match entry.split_once('=') {
            Some((_, "")) if is_base64(entry) => (None, entry),
            Some((name, key)) if key.is_empty() || key.contains(|c| c != '=') => (Some(name), key),
            _ => (None, entry),
        };
        if key.is_empty() {
            let is_named = name.is_some_and(|name| !name.is_empty());
            return Err(if is_named { InvalidKey::Unfollowed } else { InvalidKey::Empty });
        }
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidKey::Unprintable);
        }
        if !name.is_none_or(is_name) {
            return Err(InvalidKey::Name);
        }
        let name: Arc<str> = name.map_or_else(|| format!("#{}", self.keys.len() + 1), str::to_owned).into();
        if let Some(other) = self.holder(key) {
            return Err(InvalidKey::Twice(self.names[other].clone(), name));
        }
        let holder = self.names.iter().position(|known| *known == name).unwrap_or_else(|| {
            self.names.push(name);
            self.names.len() - 1
        });
        self.keys.push(Key { hash: hash(key), holder });
        Ok(())
    }

    /// The entries of a file, each with its line number. Blank lines, lines that begin with `#` and a byte order mark
    /// are ignored.
    pub fn entries(text: &str) -> impl Iterator<Item = (usize, &str)> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let lines = text.lines().enumerate().map(|(i, line)| (i + 1, line.trim()));
        lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
    }

    /// Whether no key is needed.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The distinct names.
    pub fn names(&self) -> &[Arc<str>] {
        &self.names
    }

    /// Returns the index of the name of this key. Takes the same time for every wrong key.
    pub(crate) fn holder(&self, given: &str) -> Option<usize> {
        let given = hash(given);
        let mut holder = None;
        for key in &self.keys {
            if bool::from(key.hash.ct_eq(&given)) {
                holder = Some(key.holder);
            }
        }
        holder
    }
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ApiKeys").field(&self.names).finish()
    }
}

fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key).into()
}

/// Fewest characters of a base64 key that ends in one `=`: 17 random bytes.
const MIN_BASE64: usize = 24;

/// Whether `TEXT=` is a padded base64 key rather than a name without its key. A key has whole groups of four, is long
/// enough, and has letters of both cases, which random bytes almost always have. Characters that separate words in a
/// name are no base64 digits.
fn is_base64(text: &str) -> bool {
    let digits = text.trim_end_matches('=');
    let is_digit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    text.len() >= MIN_BASE64
        && text.len().is_multiple_of(4)
        && digits.bytes().all(is_digit)
        && digits.bytes().any(|byte| byte.is_ascii_uppercase())
        && digits.bytes().any(|byte| byte.is_ascii_lowercase())
}

fn is_name(name: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=MAX_NAME).contains(&name.len()) && name.chars().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(entries: &[&str]) -> Result<ApiKeys, InvalidKey> {
        let mut keys = ApiKeys::default();
        entries.iter().try_for_each(|entry| keys.add(entry))?;
        Ok(keys)
    }

    #[track_caller]
    fn check(entries: &[&str], key: &str, name: Option<&str>) {
        let keys = keys(entries).unwrap();
        assert_eq!(keys.holder(key).map(|holder| &*keys.names()[holder]), name, "{key}");
    }

    #[test]
    fn a_key_is_known_by_its_name_or_its_place() {
        let entries = ["team-a=sk-1", "sk-2", "team-a=sk-3", "c2VjcmV0=="];
        check(&entries, "sk-1", Some("team-a"));
        check(&entries, "sk-2", Some("#2"));
        check(&entries, "sk-3", Some("team-a"));
        check(&entries, "c2VjcmV0==", Some("#4"));
        check(&["b=c2VjcmV0=="], "c2VjcmV0==", Some("b"));
        for wrong in ["", "sk-", "sk-11", "SK-1", "team-a=sk-1", "team-a"] {
            check(&entries, wrong, None);
        }
    }

    #[test]
    fn what_is_no_key_is_refused_without_repeating_it() {
        for (entry, expected) in [
            ("", InvalidKey::Empty),
            ("team-a=", InvalidKey::Unfollowed),
            ("sk 1", InvalidKey::Unprintable),
            ("team-a=sk-é", InvalidKey::Unprintable),
            ("team a=sk-1", InvalidKey::Name),
            ("=sk-1", InvalidKey::Name),
        ] {
            assert_eq!(keys(&[entry]).unwrap_err(), expected, "{entry}");
        }
        let twice = keys(&["a=sk-1", "b=sk-1"]).unwrap_err();
        assert_eq!(twice.to_string(), "the keys of `a` and `b` are the same");
        assert_eq!(format!("{:?}", keys(&["a=sk-1", "sk-2"]).unwrap()), r##"ApiKeys(["a", "#2"])"##);
    }

    /// The output of `openssl rand -base64 32` and `-base64 16`.
    const OPENSSL: [&str; 2] = ["4m1gJ3yZ0pX7+Qk/9sVbT2uR6wYcH8dLfA5eNoKxPjE=", "q0Zt5hR3xW7nB2cV8mK1aQ=="];

    #[test]
    fn a_key_in_base64_may_stand_alone() {
        for key in OPENSSL {
            check(&[key], key, Some("#1"));
            check(&[&format!("team-a={key}")], key, Some("team-a"));
        }
        let without_signs = "4m1gJ3yZ0pX7aQkb9sVbT2uR6wYcH8dLfA5eNoKxPjE=";
        check(&[without_signs], without_signs, Some("#1"));
        // The name is given, and the variable with the key was empty.
        for missing in
            ["team-a=", "production-web-site-12=", "Team-A-Of-The-West-Side=", "PRODUCTIONWEBSITENUMBER=", "teamA="]
        {
            assert_eq!(keys(&[missing]).unwrap_err(), InvalidKey::Unfollowed, "{missing}");
        }
    }

    #[test]
    fn white_space_around_a_key_is_none_of_it() {
        check(&["sk-1\n"], "sk-1", Some("#1"));
        check(&[" team-a=sk-1\r\n"], "sk-1", Some("team-a"));
        assert_eq!(keys(&[" \n"]).unwrap_err(), InvalidKey::Empty);
        assert_eq!(keys(&["team-a=\n"]).unwrap_err(), InvalidKey::Unfollowed);
    }

    #[test]
    fn a_file_has_comments_and_its_lines_have_numbers() {
        let text = "# the keys\n\n  team-a=sk-1  \r\n#sk-0\nsk-2";
        assert_eq!(ApiKeys::entries(text).collect::<Vec<_>>(), [(3, "team-a=sk-1"), (5, "sk-2")]);
        assert_eq!(ApiKeys::entries("\u{feff}sk-1\r\n").collect::<Vec<_>>(), [(1, "sk-1")]);
    }
}
