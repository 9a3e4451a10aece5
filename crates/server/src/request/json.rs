//! A JSON object from the bytes of a body.

use serde_json::Value;

use super::fields::Fields;
use crate::error::ApiError;

/// The fields of a JSON object.
///
/// # Errors
/// It is no JSON, or no object.
pub(crate) fn fields(bytes: &[u8]) -> Result<Fields, ApiError> {
    match serde_json::from_slice(bytes).map_err(ApiError::InvalidJson)? {
        Value::Object(object) => Ok(Fields::typed(object)),
        Value::Array(_) => Err(ApiError::NotAnObject("an array")),
        Value::String(_) => Err(ApiError::NotAnObject("a string")),
        Value::Null | Value::Bool(_) | Value::Number(_) => Err(ApiError::NotAnObject("a single value")),
    }
}
