//! Errors of a cache configuration, one line each, naming the key.

use std::fmt;

use crate::names;

/// Maximum characters of a given value in a message.
const MAX_SHOWN: usize = 80;

/// The reason why a cache configuration is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A value outside its bound or of the wrong type.
    #[error("`{key}` must {bound}. Given: {given}")]
    Invalid {
        /// The key on the wire.
        key: &'static str,
        /// What the value must do or be, as a verb phrase.
        bound: String,
        /// The given value, shortened if it is long.
        given: String,
    },
    /// An unknown key.
    #[error("`{key}` is not a key of the cache configuration. {}", suggestion(near, known))]
    UnknownKey {
        /// The given key.
        key: String,
        /// Similar existing keys.
        near: Vec<&'static str>,
        /// All existing keys.
        known: &'static [&'static str],
    },
}

impl ConfigError {
    /// Creates an error about `key`; a long `given` is truncated.
    pub(crate) fn invalid(key: &'static str, bound: impl Into<String>, given: impl fmt::Display) -> Self {
        ConfigError::Invalid { key, bound: bound.into(), given: shortened(given.to_string()) }
    }

    /// Creates an error about an unknown key; a long one is truncated.
    pub(crate) fn unknown_key(key: &str, known: &'static [&'static str]) -> Self {
        ConfigError::UnknownKey { key: shortened(key.to_owned()), near: names::near(key, known), known }
    }

    /// The key that the error is about, as it was given.
    pub fn key(&self) -> &str {
        match self {
            ConfigError::Invalid { key, .. } => key,
            ConfigError::UnknownKey { key, .. } => key,
        }
    }
}

fn shortened(text: String) -> String {
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn suggestion(near: &[&str], known: &[&str]) -> String {
    if near.is_empty() {
        return format!("The keys are: {}", known.join(", "));
    }
    format!("Near: {}", near.join(", "))
}
