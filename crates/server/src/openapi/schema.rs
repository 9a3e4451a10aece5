//! Short words for the schemas of single values.

use std::ops::RangeInclusive;

use serde_json::Value;
use utoipa::openapi::extensions::ExtensionsBuilder;
use utoipa::openapi::schema::{SchemaType, Type};
use utoipa::openapi::{Object, ObjectBuilder};

/// The extension that lists a field's other names.
pub(super) const ALIASES: &str = "x-aliases";

pub(super) fn text(description: impl Into<String>) -> ObjectBuilder {
    of(Type::String, description)
}

pub(super) fn integer<N: Into<i64> + Copy>(description: impl Into<String>, bounds: RangeInclusive<N>) -> ObjectBuilder {
    let (least, most): (i64, i64) = ((*bounds.start()).into(), (*bounds.end()).into());
    of(Type::Integer, description).minimum(Some(least)).maximum(Some(most))
}

pub(super) fn number(description: impl Into<String>, bounds: RangeInclusive<f64>) -> ObjectBuilder {
    of(Type::Number, description).minimum(Some(*bounds.start())).maximum(Some(*bounds.end()))
}

/// True or false, false unless given.
pub(super) fn flag(description: impl Into<String>) -> ObjectBuilder {
    of(Type::Boolean, description).default(Some(false.into()))
}

/// One of the words that `Fields::one_of` takes.
pub(super) fn one_of<T>(description: impl Into<String>, choices: &[(&str, T)]) -> ObjectBuilder {
    text(description).enum_values(Some(choices.iter().map(|(word, _)| Value::from(*word))))
}

pub(super) fn of(kind: Type, description: impl Into<String>) -> ObjectBuilder {
    let description = description.into();
    ObjectBuilder::new().schema_type(kind).description((!description.is_empty()).then_some(description))
}

/// The same field, which is also read under other names.
pub(super) fn aliased(object: ObjectBuilder, names: &[&str]) -> ObjectBuilder {
    object.extensions(Some(ExtensionsBuilder::new().add(ALIASES.trim_start_matches("x-"), names.to_vec()).build()))
}

/// The same value, or null.
pub(super) fn nullable(mut object: Object) -> Object {
    if let SchemaType::Type(kind) = object.schema_type {
        object.schema_type = SchemaType::from_iter([kind, Type::Null]);
    }
    if let Some(values) = &mut object.enum_values {
        values.push(Value::Null);
    }
    object
}
