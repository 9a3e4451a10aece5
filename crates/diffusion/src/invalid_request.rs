//! The error that names the field of a request that is outside its bound.

/// The bound of both guidance scales, as in vllm-omni.
pub const MAX_GUIDANCE: f64 = 20.0;

/// A field outside its bound. Displays as `` `n` must be between 1 and 10. Given: 11 ``.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` must {bound}. Given: {given}")]
pub struct InvalidRequest {
    /// The field's name on the wire.
    pub field: &'static str,
    /// What the field must do or be, as a verb phrase.
    pub bound: String,
    /// The given value, shortened if it is long.
    pub given: String,
}

impl InvalidRequest {
    /// Creates an error about `field`; a long `given` is truncated.
    pub fn new(field: &'static str, bound: impl Into<String>, given: impl ToString) -> Self {
        let given = given.to_string();
        let shown = match given.char_indices().nth(80) {
            Some((end, _)) => format!("{}…", &given[..end]),
            None => given,
        };
        InvalidRequest { field, bound: bound.into(), given: shown }
    }
}

pub(crate) fn within(
    field: &'static str,
    value: i64,
    bounds: std::ops::RangeInclusive<i64>,
) -> Result<i64, InvalidRequest> {
    if bounds.contains(&value) {
        return Ok(value);
    }
    Err(InvalidRequest::new(field, format!("be between {} and {}", bounds.start(), bounds.end()), value))
}

pub(crate) fn guidance_within(field: &'static str, value: f64) -> Result<f64, InvalidRequest> {
    if (0.0..=MAX_GUIDANCE).contains(&value) {
        return Ok(value);
    }
    Err(InvalidRequest::new(field, format!("be between 0 and {MAX_GUIDANCE}"), value))
}
