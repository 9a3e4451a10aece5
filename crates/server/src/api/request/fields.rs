//! The given fields of a request. Each is taken once, so that wrong types are reported by name and leftover fields are
//! known to have no effect. Names outside [`vocabulary`] are recorded, and their values skipped.

use diffusion::InvalidRequest;

use super::given::{Fields, Given};
use super::kinds::{Field, Kind};
use super::vocabulary::{self, EXTRA_BODY};
use crate::api::error::ApiError;

impl Fields {
    /// Fields of a form, which are text.
    pub(crate) fn spelt() -> Self {
        Fields { spelt: true, ..Fields::default() }
    }

    /// Merges the fields of `extra_body` into the request; existing fields take precedence.
    ///
    /// # Errors
    /// It is not an object.
    pub(crate) fn merge_extra_body(&mut self) -> Result<(), ApiError> {
        let Some(more) = self.take(&EXTRA_BODY)? else { return Ok(()) };
        for (name, given) in more.values {
            if !self.contains(name) {
                self.values.push((name, given));
            }
        }
        more.unknown.iter().for_each(|name| self.note_unknown(name));
        more.repeated.iter().for_each(|name| self.note_repeated(name));
        Ok(())
    }

    /// Takes the value of a field by its name or an alias. If both are given, they must agree.
    ///
    /// # Errors
    /// It has a wrong type or is out of bounds.
    pub(crate) fn take<K: Kind>(&mut self, field: &Field<K>) -> Result<Option<K::Value>, ApiError> {
        debug_assert!(vocabulary::known(field.name).is_some(), "`{}` is in no vocabulary", field.name);
        let mut found: Option<(&'static str, String, K::Value)> = None;
        for name in field.names() {
            let Some(given) = self.spoken(name, &field.kind) else { continue };
            let shown = if field.aliases.is_empty() { String::new() } else { given.to_string() };
            let value = field.kind.read(name, given)?;
            match &found {
                Some((first, same, known)) if *known != value => {
                    return Err(InvalidRequest::new(name, format!("equal {first}, {same}"), shown).into());
                }
                Some(_) => {}
                None => found = Some((name, shown, value)),
            }
        }
        Ok(found.map(|(_, _, value)| value))
    }

    /// Takes a value as JSON would have it: the field's kind parses the text of a form, if it can.
    fn spoken(&mut self, name: &str, kind: &impl Kind) -> Option<Given> {
        match self.any(name)? {
            Given::Text(text) if self.spelt && !kind.keeps_empty() && text.trim().is_empty() => None,
            Given::Text(text) if self.spelt => Some(kind.spelt(text.trim()).unwrap_or(Given::Text(text))),
            given => Some(given),
        }
    }

    /// Returns the names of the fields that were not taken, in order.
    ///
    /// # Errors
    /// A taken field was given twice, so it is ambiguous.
    pub(crate) fn rest(mut self) -> Result<Vec<String>, ApiError> {
        if let Some(name) = self.repeated.iter().find(|name| !self.contains(name)) {
            return Err(match self.spelt {
                true => ApiError::form(format!("{name:?} must be there once"), Some(name)),
                false => InvalidRequest::new(name, "be there once", "more than one value").into(),
            });
        }
        self.unknown.extend(self.values.into_iter().map(|(name, _)| name.to_owned()));
        self.unknown.sort_unstable();
        self.unknown.dedup();
        Ok(self.unknown)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::given::MAX_UNKNOWN_BYTES;
    use super::super::json;
    use super::super::vocabulary::{
        CACHE, GUIDANCE_SCALE, N, NUM_INFERENCE_STEPS, PROMPT, SEED, SIZE, STREAM, TRUE_CFG_SCALE, USER,
    };
    use super::*;

    fn typed(value: Value) -> Fields {
        json::of_value(value)
    }

    fn spelt(texts: &[(&'static str, &str)]) -> Fields {
        let mut fields = Fields::spelt();
        texts.iter().for_each(|(name, text)| fields.set(name, Given::Text((*text).into())));
        fields
    }

    fn told<T>(taken: Result<T, ApiError>) -> Result<T, String> {
        taken.map_err(|err| err.to_string())
    }

    #[test]
    fn text_is_what_its_field_makes_of_it() {
        let mut form =
            spelt(&[("n", "2"), ("seed", " 2.0 "), ("guidance_scale", "1e1"), ("stream", "True"), ("prompt", "2")]);
        assert_eq!((form.take(&N).unwrap(), form.take(&SEED).unwrap()), (Some(2), Some(2)));
        assert_eq!(form.take(&GUIDANCE_SCALE).unwrap(), Some(10.0));
        assert_eq!(form.take(&STREAM).unwrap(), Some(true));
        assert_eq!(form.take(&PROMPT).unwrap().as_deref(), Some("2"));
        assert_eq!(spelt(&[("stream", "0")]).take(&STREAM).unwrap(), Some(false));
        for bad in ["two", "1.5", "0x10", "NaN", "inf", "null"] {
            let expected = told(spelt(&[("n", bad)]).take(&N)).unwrap_err();
            assert!(expected.starts_with("`n` must be an integer"), "{expected}");
        }
        for large in ["18446744073709551615", "99999999999999999999"] {
            let message = told(spelt(&[("n", large)]).take(&N)).unwrap_err();
            assert!(message.starts_with("`n` must be between 1 and 10. Given: "), "{message}");
        }
        assert!(spelt(&[("stream", "yes")]).take(&STREAM).is_err());
        assert!(typed(json!({"n": "2"})).take(&N).is_err(), "JSON has numbers of its own");
    }

    #[test]
    fn an_empty_text_is_absent_but_for_fields_of_text() {
        let mut form = spelt(&[("n", ""), ("stream", " "), ("size", ""), ("cache", ""), ("prompt", "")]);
        assert_eq!((form.take(&N).unwrap(), form.take(&STREAM).unwrap()), (None, None));
        assert_eq!((form.take(&SIZE).unwrap(), form.take(&CACHE).unwrap()), (None, None));
        assert_eq!(form.take(&PROMPT).unwrap().as_deref(), Some(""));
        assert_eq!(typed(json!({"size": ""})).take(&SIZE).unwrap().as_deref(), Some(""));
    }

    #[test]
    fn names_of_one_field_must_agree() {
        let read = |value| told(typed(value).take(&NUM_INFERENCE_STEPS));
        assert_eq!(read(json!({})), Ok(None));
        assert_eq!(read(json!({"step": 3})), Ok(Some(3)));
        assert_eq!(read(json!({"steps": 3, "step": 3.0})), Ok(Some(3)));
        assert_eq!(read(json!({"steps": 3, "step": 4})), Err("`step` must equal steps, 3. Given: 4".into()));
        for name in TRUE_CFG_SCALE.names() {
            assert_eq!(typed(json!({name: 2})).take(&TRUE_CFG_SCALE).unwrap(), Some(2.0));
        }
    }

    #[test]
    fn merged_fields_lose_against_the_requests_own() {
        let extra = json!({"n": 2, "seed": 3, "steps": null, "style": 1, "extra_body": {}});
        let mut fields = typed(json!({"n": 1, "seed": null, "extra_body": extra}));
        fields.merge_extra_body().unwrap();
        assert_eq!((fields.take(&N).unwrap(), fields.take(&SEED).unwrap()), (Some(1), Some(3)));
        assert_eq!(fields.rest().unwrap(), ["extra_body", "style"]);
        let mut form = spelt(&[("extra_body", r#"{"n": 2}"#)]);
        form.merge_extra_body().unwrap();
        assert_eq!(form.take(&N).unwrap(), Some(2));
        let wrong = told(typed(json!({"extra_body": 1})).merge_extra_body());
        assert_eq!(wrong, Err("`extra_body` must be an object. Given: 1".into()));
        assert!(spelt(&[("extra_body", "{")]).merge_extra_body().is_err());
    }

    #[test]
    fn of_what_nobody_knows_some_names_are_kept() {
        let mut object = serde_json::Map::new();
        for i in 0..100_000 {
            object.insert(format!("k{i}"), json!([{"a": i}]));
        }
        object.insert("x".repeat(5000), json!(1));
        object.insert("nothing".into(), Value::Null);
        let names = typed(Value::Object(object)).rest().unwrap();
        assert!((100..=MAX_UNKNOWN_BYTES).contains(&names.len()), "{}", names.len());
        assert!(names.iter().map(String::len).sum::<usize>() <= MAX_UNKNOWN_BYTES);
        assert!(names.is_sorted() && names.iter().all(|name| name.starts_with('k')));
    }

    #[test]
    fn of_a_wrong_type_its_beginning_is_kept() {
        let told = |value| told(typed(json!({"user": value})).take(&USER)).unwrap_err();
        let bound = "`user` must be a string. Given: ";
        let whole = r#"{"a":[1,-2,0.5,null,true],"b":{"c":"\""}}"#;
        assert_eq!(told(serde_json::from_str(whole).unwrap()), format!("{bound}{whole}"));
        for long in [json!(vec![7; 100_000]), json!({"k": "x".repeat(100_000)}), json!([[vec!["é"; 5000]]])] {
            let message = told(long);
            assert!(message.ends_with('…') && message.chars().count() == bound.len() + 81, "{message}");
        }
    }
}
