//! A request's fields, read one by one: wrong types are named, and what nobody asked for is known.

use diffusion::InvalidRequest;
use serde_json::{Map, Number, Value};

use crate::error::ApiError;

#[cfg(test)]
thread_local! {
    /// The names that this thread's requests were asked for: those that /openapi.json lists.
    pub(crate) static ASKED: std::cell::RefCell<std::collections::BTreeSet<String>> = Default::default();
}

/// The fields of a request that were not read yet. `null` is the same as absent.
#[derive(Debug)]
pub(crate) struct Fields {
    values: Map<String, Value>,
    /// The values came as text (a form): each is what its field's type makes of it, and an empty one
    /// is absent where text is not what the field holds.
    spelt: bool,
    /// Names that came again, of which the first value stands.
    repeated: Vec<String>,
}

impl Fields {
    /// The fields of a JSON object.
    pub(crate) fn typed(mut object: Map<String, Value>) -> Self {
        object.retain(|_, value| !value.is_null());
        Fields { values: object, spelt: false, repeated: Vec::new() }
    }

    /// The fields of a form, some of which came again.
    pub(crate) fn spelt(texts: Map<String, Value>, repeated: Vec<String>) -> Self {
        Fields { values: texts, spelt: true, repeated }
    }

    pub(crate) fn any(&mut self, name: &str) -> Option<Value> {
        #[cfg(test)]
        ASKED.with_borrow_mut(|asked| asked.insert(name.to_owned()));
        self.values.remove(name)
    }

    /// A field that may hold an object or a word.
    pub(crate) fn structure(&mut self, name: &'static str) -> Option<Value> {
        let value = self.any(name)?;
        match &value {
            Value::String(text) if self.spelt && text.is_empty() => None,
            Value::String(text) if self.spelt && text.trim_start().starts_with('{') => {
                Some(serde_json::from_str(text).unwrap_or(value))
            }
            _ => Some(value),
        }
    }

    /// The fields of the object `name` are fields of the request, unless those are there already.
    ///
    /// # Errors
    /// It is no object.
    pub(crate) fn merge(&mut self, name: &'static str) -> Result<(), ApiError> {
        match self.structure(name) {
            None => Ok(()),
            Some(Value::Object(object)) => {
                for (name, value) in object.into_iter().filter(|(_, value)| !value.is_null()) {
                    self.values.entry(name).or_insert(value);
                }
                Ok(())
            }
            Some(other) => Err(ApiError::WrongType(InvalidRequest::new(name, "be an object", other))),
        }
    }

    pub(crate) fn string(&mut self, name: &'static str) -> Result<Option<String>, ApiError> {
        let text = self.any(name).map(|value| match value {
            Value::String(text) => Ok(text),
            other => Err(wrong_type(name, "be a string", other)),
        });
        text.transpose()
    }

    /// A string that is never empty: a name, a size, a choice.
    pub(crate) fn word(&mut self, name: &'static str) -> Result<Option<String>, ApiError> {
        let word = self.string(name)?;
        Ok(word.filter(|word| !(self.spelt && word.is_empty())))
    }

    /// A whole number; `2.0` is one.
    pub(crate) fn integer(&mut self, name: &'static str) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.value(name, number) else { return Ok(None) };
        let bound = if value.is_u64() { "be an integer of 64 bits" } else { "be an integer" };
        let whole = value.as_f64().filter(|number| number.fract() == 0.0 && number.abs() < (1_u64 << 53) as f64);
        let integer = value.as_i64().or(whole.map(|number| number as i64));
        integer.map(Some).ok_or_else(|| wrong_type(name, bound, value))
    }

    pub(crate) fn number(&mut self, name: &'static str) -> Result<Option<f64>, ApiError> {
        let Some(value) = self.value(name, number) else { return Ok(None) };
        value.as_f64().map(Some).ok_or_else(|| wrong_type(name, "be a number", value))
    }

    pub(crate) fn boolean(&mut self, name: &'static str) -> Result<Option<bool>, ApiError> {
        let Some(value) = self.value(name, truth) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| wrong_type(name, "be true or false", value))
    }

    /// Whether a field that is off by default is on.
    pub(crate) fn flag(&mut self, name: &'static str) -> Result<bool, ApiError> {
        Ok(self.boolean(name)?.unwrap_or(false))
    }

    /// One of the words of `choices`, which stand for values.
    pub(crate) fn one_of<T: Copy>(&mut self, name: &'static str, choices: &[(&str, T)]) -> Result<Option<T>, ApiError> {
        let Some(word) = self.word(name)? else { return Ok(None) };
        let chosen = choices.iter().find(|(choice, _)| *choice == word);
        let (_, value) = chosen.ok_or_else(|| {
            let words: Vec<_> = choices.iter().map(|(choice, _)| *choice).collect();
            InvalidRequest::new(name, format!("be one of {}", words.join(", ")), format!("{word:?}"))
        })?;
        Ok(Some(*value))
    }

    /// A number under its name or another; given twice, both must agree.
    pub(crate) fn aliased<T: PartialEq + ToString>(
        &mut self,
        names: &[&'static str],
        read: impl Fn(&mut Self, &'static str) -> Result<Option<T>, ApiError>,
    ) -> Result<Option<T>, ApiError> {
        let mut found: Option<(&'static str, T)> = None;
        for &name in names {
            let Some(value) = read(self, name)? else { continue };
            match &found {
                Some((first, same)) if *same != value => {
                    let bound = format!("equal {first}, {}", same.to_string());
                    return Err(InvalidRequest::new(name, bound, value).into());
                }
                Some(_) => {}
                None => found = Some((name, value)),
            }
        }
        Ok(found.map(|(_, value)| value))
    }

    /// The names of the fields that nobody asked for.
    ///
    /// # Errors
    /// One that was asked for came again: it is not known which was meant.
    pub(crate) fn rest(self) -> Result<Vec<String>, ApiError> {
        if let Some(name) = self.repeated.iter().find(|name| !self.values.contains_key(*name)) {
            return Err(ApiError::InvalidForm(format!("{name:?} must be there once")));
        }
        Ok(self.values.into_iter().map(|(name, _)| name).collect())
    }

    /// A value as JSON has it: text of a form is read by `reading`, where it can be.
    fn value(&mut self, name: &str, reading: fn(&str) -> Option<Value>) -> Option<Value> {
        match self.any(name)? {
            Value::String(text) if self.spelt && text.trim().is_empty() => None,
            Value::String(text) if self.spelt => Some(reading(text.trim()).unwrap_or(Value::String(text))),
            value => Some(value),
        }
    }
}

fn number(text: &str) -> Option<Value> {
    let integer = text.parse::<i64>().map(Value::from).or_else(|_| text.parse::<u64>().map(Value::from));
    integer.ok().or_else(|| Number::from_f64(text.parse().ok()?).map(Value::Number))
}

/// Python writes `True` where JavaScript writes `true`.
fn truth(text: &str) -> Option<Value> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" => Some(true.into()),
        "false" | "0" => Some(false.into()),
        _ => None,
    }
}

fn wrong_type(name: &'static str, bound: &str, value: Value) -> ApiError {
    ApiError::WrongType(InvalidRequest::new(name, bound, value))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn typed(value: Value) -> Fields {
        let Value::Object(object) = value else { panic!("{value}") };
        Fields::typed(object)
    }

    fn spelt(texts: &[(&str, &str)]) -> Fields {
        Fields::spelt(texts.iter().map(|(name, text)| ((*name).to_owned(), (*text).into())).collect(), Vec::new())
    }

    #[test]
    fn text_is_what_its_field_makes_of_it() {
        let mut form = spelt(&[("a", "2"), ("b", " 2.0 "), ("c", "1e1"), ("d", "True"), ("e", "0"), ("f", "2")]);
        assert_eq!(form.integer("a").unwrap(), Some(2));
        assert_eq!(form.integer("b").unwrap(), Some(2));
        assert_eq!(form.number("c").unwrap(), Some(10.0));
        assert_eq!(form.boolean("d").unwrap(), Some(true));
        assert_eq!(form.boolean("e").unwrap(), Some(false));
        assert_eq!(form.string("f").unwrap().as_deref(), Some("2"));
        for bad in ["two", "1.5", "0x10", "NaN", "inf", "null", "99999999999999999999"] {
            assert!(spelt(&[("n", bad)]).integer("n").is_err(), "{bad}");
        }
        assert!(spelt(&[("n", "yes")]).boolean("n").is_err());
        assert!(typed(json!({"n": "2"})).integer("n").is_err(), "JSON has numbers of its own");
    }

    #[test]
    fn an_empty_text_is_absent_but_for_fields_of_text() {
        let mut form = spelt(&[("n", ""), ("flag", " "), ("size", ""), ("cache", ""), ("prompt", "")]);
        assert_eq!((form.integer("n").unwrap(), form.boolean("flag").unwrap()), (None, None));
        assert_eq!((form.word("size").unwrap(), form.structure("cache")), (None, None));
        assert_eq!(form.string("prompt").unwrap().as_deref(), Some(""));
        assert_eq!(typed(json!({"size": ""})).word("size").unwrap().as_deref(), Some(""));
    }

    #[test]
    fn names_of_one_field_must_agree() {
        let read = |value| typed(value).aliased(&["steps", "step"], Fields::integer).map_err(|err| err.to_string());
        assert_eq!(read(json!({})), Ok(None));
        assert_eq!(read(json!({"step": 3})), Ok(Some(3)));
        assert_eq!(read(json!({"steps": 3, "step": 3.0})), Ok(Some(3)));
        assert_eq!(read(json!({"steps": 3, "step": 4})), Err("`step` must equal steps, 3. Given: 4".into()));
    }

    #[test]
    fn merged_fields_lose_against_the_requests_own() {
        let mut fields = typed(json!({"n": 1, "seed": null, "extra_body": {"n": 2, "seed": 3, "steps": null}}));
        fields.merge("extra_body").unwrap();
        assert_eq!((fields.integer("n").unwrap(), fields.integer("seed").unwrap()), (Some(1), Some(3)));
        assert!(fields.rest().unwrap().is_empty());
        let mut form = spelt(&[("extra_body", r#"{"n": 2}"#)]);
        form.merge("extra_body").unwrap();
        assert_eq!(form.integer("n").unwrap(), Some(2));
        assert!(typed(json!({"extra_body": 1})).merge("extra_body").is_err());
        assert!(spelt(&[("extra_body", "{")]).merge("extra_body").is_err());
    }
}
