//! Kinds of fields: how a value is parsed, and its schema.

use diffusion::InvalidRequest;
use serde_json::{Number, Value};
use utoipa::openapi::ObjectBuilder;
use utoipa::openapi::extensions::{Extensions, ExtensionsBuilder};
use utoipa::openapi::schema::{SchemaType, Type};

use super::given::{Fields, Given, Shape};
use super::reading::{Known, nested};
use crate::api::error::ApiError;

/// Schema extension with a field's aliases.
pub(crate) const ALIASES: &str = "x-aliases";

/// A field of a request, with everything that is known of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field<K> {
    pub(crate) name: &'static str,
    /// Aliases.
    pub(crate) aliases: &'static [&'static str],
    /// Description in /openapi.json. A field without one is undocumented and exists for some clients.
    about: &'static str,
    /// Default as JSON, if it is the same for all models.
    default: Option<&'static str>,
    pub(crate) kind: K,
}

/// A kind of values.
pub(crate) trait Kind: Sync {
    type Value: PartialEq;

    /// What is kept of a value while a body is parsed.
    fn shape(&self) -> Shape {
        Shape::Single
    }

    /// Whether an empty text in a form is a value.
    fn keeps_empty(&self) -> bool {
        false
    }

    /// Parses a form's text; `None` keeps the text itself.
    fn spelt(&self, _text: &str) -> Option<Given> {
        None
    }

    /// Converts a given value.
    ///
    /// # Errors
    /// The value has a wrong type or is out of bounds.
    fn read(&self, name: &'static str, given: Given) -> Result<Self::Value, ApiError>;

    fn schema(&self) -> ObjectBuilder;
}

/// A [`Field`] of any kind.
pub(crate) trait AnyField: Sync {
    /// Returns the field's name if `name` is that or an alias.
    fn named(&self, name: &str) -> Option<&'static str>;
    fn shape(&self) -> Shape;
    /// Name and schema, if it is documented.
    fn documented(&self) -> Option<(&'static str, ObjectBuilder)>;
}

impl<K> Field<K> {
    pub(crate) const fn new(name: &'static str, about: &'static str, kind: K) -> Self {
        Field { name, aliases: &[], about, default: None, kind }
    }

    /// Adds a default, as JSON.
    pub(crate) const fn or(self, default: &'static str) -> Self
    where
        K: Copy,
    {
        Field { default: Some(default), ..self }
    }

    pub(crate) const fn also(self, aliases: &'static [&'static str]) -> Self
    where
        K: Copy,
    {
        Field { aliases, ..self }
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> + use<K> {
        std::iter::once(self.name).chain(self.aliases.iter().copied())
    }
}

impl<K: Kind> AnyField for Field<K> {
    fn named(&self, name: &str) -> Option<&'static str> {
        self.names().find(|known| *known == name)
    }

    fn shape(&self) -> Shape {
        self.kind.shape()
    }

    fn documented(&self) -> Option<(&'static str, ObjectBuilder)> {
        if self.about.is_empty() {
            return None;
        }
        let default =
            self.default.map(|json| serde_json::from_str::<Value>(json).expect("a default is JSON. This is a bug."));
        let mut schema = self.kind.schema().description(Some(self.about)).default(default);
        if !self.aliases.is_empty() {
            schema = schema.extensions(Some(listed(self.aliases)));
        }
        Some((self.name, schema))
    }
}

/// The schema extension with these aliases.
pub(crate) fn listed(aliases: &[&str]) -> Extensions {
    ExtensionsBuilder::new().add(ALIASES.trim_start_matches("x-"), aliases.to_vec()).build()
}

fn wrong_type(name: &'static str, bound: &str, given: impl ToString) -> ApiError {
    ApiError::WrongType(InvalidRequest::new(name, bound, given))
}

fn text(name: &'static str, given: Given) -> Result<String, ApiError> {
    match given {
        Given::Text(text) => Ok(text),
        other => Err(wrong_type(name, "be a string", other)),
    }
}

fn of(kind: Type) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(kind)
}

/// Any text, even an empty one. The draft checks its bounds, whatever its source.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text {
    pub(crate) max_chars: Option<usize>,
    /// Whether it must contain more than white space.
    pub(crate) says_something: bool,
}

impl Kind for Text {
    type Value = String;

    fn keeps_empty(&self) -> bool {
        true
    }

    fn read(&self, name: &'static str, given: Given) -> Result<String, ApiError> {
        text(name, given)
    }

    fn schema(&self) -> ObjectBuilder {
        let schema = of(Type::String).max_length(self.max_chars);
        if self.says_something { schema.min_length(Some(1)).pattern(Some(r"\S")) } else { schema }
    }
}

/// A non-empty text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Word {
    pub(crate) pattern: Option<&'static str>,
}

impl Kind for Word {
    type Value = String;

    fn read(&self, name: &'static str, given: Given) -> Result<String, ApiError> {
        text(name, given)
    }

    fn schema(&self) -> ObjectBuilder {
        of(Type::String).pattern(self.pattern)
    }
}

/// An integer within bounds; `2.0` counts as one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Integer {
    pub(crate) least: i64,
    pub(crate) most: i64,
}

impl Kind for Integer {
    type Value = i64;

    fn spelt(&self, text: &str) -> Option<Given> {
        number(text)
    }

    fn read(&self, name: &'static str, given: Given) -> Result<i64, ApiError> {
        let integer = match &given {
            Given::Number(number) => integer(number),
            _ => None,
        };
        match integer {
            Some(integer) if (self.least..=self.most).contains(&integer) => Ok(integer),
            Some(integer) if self.most == i64::MAX && self.least >= 0 => {
                Err(InvalidRequest::new(name, format!("be at least {}", self.least), integer).into())
            }
            None if !self.is_beyond(&given) => Err(wrong_type(name, "be an integer", given)),
            _ => {
                let bound = format!("be between {} and {}", self.least, self.most);
                Err(InvalidRequest::new(name, bound, given).into())
            }
        }
    }

    fn schema(&self) -> ObjectBuilder {
        let most = (self.most < i64::MAX || self.least < 0).then_some(self.most);
        of(Type::Integer).minimum(Some(self.least)).maximum(most)
    }
}

impl Integer {
    /// Whether a value is an integer beyond 64 bits or out of bounds.
    fn is_beyond(&self, given: &Given) -> bool {
        let Given::Number(number) = given else { return false };
        let whole = number.as_f64().filter(|whole| whole.fract() == 0.0);
        whole.is_some_and(|whole| whole < self.least as f64 || whole >= (self.most as f64).next_up()) || number.is_u64()
    }
}

fn integer(number: &Number) -> Option<i64> {
    let whole = number.as_f64().filter(|number| number.fract() == 0.0 && number.abs() < (1_u64 << 53) as f64);
    number.as_i64().or(whole.map(|number| number as i64))
}

fn number(text: &str) -> Option<Given> {
    let integer = text.parse::<i64>().map(Number::from).or_else(|_| text.parse::<u64>().map(Number::from));
    integer.ok().or_else(|| Number::from_f64(text.parse().ok()?)).map(Given::Number)
}

/// A number from 0 up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weight {
    pub(crate) most: f64,
}

impl Kind for Weight {
    type Value = f64;

    fn spelt(&self, text: &str) -> Option<Given> {
        number(text)
    }

    fn read(&self, name: &'static str, given: Given) -> Result<f64, ApiError> {
        let number = match &given {
            Given::Number(number) => number.as_f64(),
            _ => None,
        };
        let number = number.ok_or_else(|| wrong_type(name, "be a number", given))?;
        if (0.0..=self.most).contains(&number) {
            return Ok(number);
        }
        Err(InvalidRequest::new(name, format!("be between 0 and {}", self.most), number).into())
    }

    fn schema(&self) -> ObjectBuilder {
        of(Type::Number).minimum(Some(0.0)).maximum(Some(self.most))
    }
}

/// A boolean; false by default.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flag;

impl Kind for Flag {
    type Value = bool;

    /// Python writes `True` where JavaScript writes `true`.
    fn spelt(&self, text: &str) -> Option<Given> {
        match text.to_ascii_lowercase().as_str() {
            "true" | "1" => Some(Given::Bool(true)),
            "false" | "0" => Some(Given::Bool(false)),
            _ => None,
        }
    }

    fn read(&self, name: &'static str, given: Given) -> Result<bool, ApiError> {
        match given {
            Given::Bool(value) => Ok(value),
            other => Err(wrong_type(name, "be true or false", other)),
        }
    }

    fn schema(&self) -> ObjectBuilder {
        of(Type::Boolean)
    }
}

/// One of several words, each of which stands for a value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OneOf<T: 'static>(pub(crate) &'static [(&'static str, T)]);

impl<T: Copy + PartialEq + Sync> Kind for OneOf<T> {
    type Value = T;

    fn read(&self, name: &'static str, given: Given) -> Result<T, ApiError> {
        let word = text(name, given)?;
        let chosen = self.0.iter().find(|(choice, _)| *choice == word);
        let invalid = || {
            let words: Vec<_> = self.0.iter().map(|(choice, _)| *choice).collect();
            InvalidRequest::new(name, format!("be one of {}", words.join(", ")), format!("{word:?}"))
        };
        Ok(chosen.ok_or_else(invalid)?.1)
    }

    fn schema(&self) -> ObjectBuilder {
        of(Type::String).enum_values(Some(self.0.iter().map(|(word, _)| Value::from(*word))))
    }
}

/// A word or an object of settings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings;

impl Kind for Settings {
    type Value = Given;

    fn shape(&self) -> Shape {
        Shape::Settings
    }

    fn spelt(&self, text: &str) -> Option<Given> {
        let is_object = text.starts_with('{') && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
        is_object.then(|| Given::Settings(text.into()))
    }

    fn read(&self, _name: &'static str, given: Given) -> Result<Given, ApiError> {
        Ok(given)
    }

    fn schema(&self) -> ObjectBuilder {
        ObjectBuilder::new().schema_type(SchemaType::from_iter([Type::String, Type::Object]))
    }
}

/// An object of further fields.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MoreFields(pub(super) Known);

impl Kind for MoreFields {
    type Value = Fields;

    fn shape(&self) -> Shape {
        Shape::Fields { keeps_pictures: true }
    }

    fn spelt(&self, text: &str) -> Option<Given> {
        let fields = nested(text, self.0)?;
        Some(Given::Fields(Box::new(fields)))
    }

    fn read(&self, name: &'static str, given: Given) -> Result<Fields, ApiError> {
        match given {
            Given::Fields(fields) => Ok(*fields),
            other => Err(wrong_type(name, "be an object", other)),
        }
    }

    fn schema(&self) -> ObjectBuilder {
        of(Type::Object)
    }
}

/// Pictures, or with `Shape::GivenPicture` one. Their schema depends on the kind of body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PictureNames(pub(crate) Shape);

impl Kind for PictureNames {
    type Value = Given;

    fn shape(&self) -> Shape {
        self.0
    }

    fn read(&self, _name: &'static str, given: Given) -> Result<Given, ApiError> {
        Ok(given)
    }

    fn schema(&self) -> ObjectBuilder {
        of(Type::Object)
    }
}
