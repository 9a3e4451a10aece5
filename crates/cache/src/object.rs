//! An object of settings as given, and its conversion to a derived type.

use std::fmt;

use serde::de::{self, Deserialize, DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};

use crate::ConfigError;
use crate::names::names;

/// Keys with their values, each key once.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Object(Map<String, Value>);

impl Object {
    /// Reads the object as a `T`, whose fields are of [kinds](crate::kinds).
    ///
    /// # Errors
    /// An unknown key, or otherwise the first key whose value is not of its kind.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        let known = names::<T>();
        if let Some(unknown) = self.keys().find(|key| !known.contains(key)) {
            return Err(ConfigError::unknown_key(unknown, known));
        }
        serde_path_to_error::deserialize(Value::Object(self.0.clone())).map_err(|err| {
            let path = err.path().to_string();
            let key = known.iter().find(|&&key| path == key);
            self.refusal(key.expect("values are read key by key. This is a bug."), err.inner().to_string())
        })
    }

    /// Creates an error about the value of a key.
    pub(crate) fn refusal(&self, key: &'static str, bound: impl Into<String>) -> ConfigError {
        ConfigError::invalid(key, bound, self.0.get(key).map(shown).unwrap_or_default())
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }
}

/// Formats as JSON with objects shortened.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(values) => format!("[{}]", values.iter().map(shown).collect::<Vec<_>>().join(", ")),
        Value::Object(_) => "{…}".into(),
        value => value.to_string(),
    }
}

impl<'de> Deserialize<'de> for Object {
    /// Reads any object; [`Object::read`] checks the keys.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Entries)
    }
}

struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = Object;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of cache keys")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
        let mut object = Object::default();
        while let Some((key, value)) = map.next_entry::<String, _>()? {
            if object.has(&key) {
                return Err(de::Error::custom(format!("`{key}` is given twice")));
            }
            object.0.insert(key, value);
        }
        Ok(object)
    }
}
