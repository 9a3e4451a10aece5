//! Helpers for the schemas of single values.

use serde_json::Value;
use utoipa::openapi::schema::{SchemaType, Type};
use utoipa::openapi::{Object, ObjectBuilder};

pub(super) fn text(description: impl Into<String>) -> ObjectBuilder {
    of(Type::String, description)
}

pub(super) fn of(kind: Type, description: impl Into<String>) -> ObjectBuilder {
    let description = description.into();
    ObjectBuilder::new().schema_type(kind).description((!description.is_empty()).then_some(description))
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
