//! A JSON object, read field by field: wrong types are named, and what nobody asked for is known.

use diffusion::InvalidRequest;
use serde_json::{Map, Value};

use crate::error::ApiError;

/// The fields of a request that were not read yet. `null` is the same as absent.
#[derive(Debug)]
pub(crate) struct Fields(Map<String, Value>);

impl Fields {
    pub(crate) fn new(mut object: Map<String, Value>) -> Self {
        object.retain(|_, value| !value.is_null());
        Fields(object)
    }

    pub(crate) fn any(&mut self, name: &'static str) -> Option<Value> {
        self.0.remove(name)
    }

    pub(crate) fn string(&mut self, name: &'static str) -> Result<Option<String>, ApiError> {
        self.read(name, "be a string", |value| match value {
            Value::String(text) => Ok(text),
            other => Err(other),
        })
    }

    /// A whole number; `2.0` is one.
    pub(crate) fn integer(&mut self, name: &'static str) -> Result<Option<i64>, ApiError> {
        let is_large = self.0.get(name).is_some_and(Value::is_u64);
        self.read(name, if is_large { "be an integer of 64 bits" } else { "be an integer" }, |value| {
            let whole = value.as_f64().filter(|number| number.fract() == 0.0 && number.abs() < (1_u64 << 53) as f64);
            value.as_i64().or(whole.map(|number| number as i64)).ok_or(value)
        })
    }

    pub(crate) fn number(&mut self, name: &'static str) -> Result<Option<f64>, ApiError> {
        self.read(name, "be a number", |value| value.as_f64().ok_or(value))
    }

    pub(crate) fn boolean(&mut self, name: &'static str) -> Result<Option<bool>, ApiError> {
        self.read(name, "be true or false", |value| value.as_bool().ok_or(value))
    }

    /// One of the words of `choices`, which stand for values.
    pub(crate) fn one_of<T: Copy>(&mut self, name: &'static str, choices: &[(&str, T)]) -> Result<Option<T>, ApiError> {
        let Some(word) = self.string(name)? else { return Ok(None) };
        let chosen = choices.iter().find(|(choice, _)| *choice == word);
        let (_, value) = chosen.ok_or_else(|| {
            let words: Vec<_> = choices.iter().map(|(choice, _)| *choice).collect();
            InvalidRequest::new(name, format!("be one of {}", words.join(", ")), format!("{word:?}"))
        })?;
        Ok(Some(*value))
    }

    /// The names of the fields that nobody asked for.
    pub(crate) fn rest(self) -> Vec<String> {
        self.0.into_iter().map(|(name, _)| name).collect()
    }

    fn read<T>(
        &mut self,
        name: &'static str,
        bound: &str,
        convert: impl FnOnce(Value) -> Result<T, Value>,
    ) -> Result<Option<T>, ApiError> {
        let converted = self.any(name).map(convert).transpose();
        converted.map_err(|value| ApiError::WrongType(InvalidRequest::new(name, bound, value)))
    }
}
