//! Base64 files in JSON.

use std::borrow::Cow;

use axum::body::Bytes;
use base64_simd::STANDARD;
use serde::ser::{Error, Serialize, Serializer};
use serde_json::value::RawValue;
use utoipa::openapi::schema::Type;
use utoipa::openapi::{Object, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// A file as base64 in JSON. It is encoded while it is written, and copied unchanged: base64 contains nothing to
/// escape, and scanning for it takes longer than encoding.
#[derive(Debug)]
pub(crate) struct Base64(pub(crate) Bytes);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RawValue::from_string(quoted(&self.0)).map_err(S::Error::custom)?.serialize(serializer)
    }
}

fn quoted(file: &[u8]) -> String {
    let mut text = String::with_capacity(encoded_len(file.len()) + 2);
    text.push('"');
    STANDARD.encode_append(file, &mut text);
    text.push('"');
    text
}

/// Length of the base64 of `len` bytes.
pub(super) fn encoded_len(len: usize) -> usize {
    len.div_ceil(3) * 4
}

impl ToSchema for Base64 {
    fn name() -> Cow<'static, str> {
        "Base64".into()
    }
}

impl PartialSchema for Base64 {
    fn schema() -> RefOr<Schema> {
        let text = Object::builder().schema_type(Type::String).content_encoding("base64");
        text.description(Some("The file in base64.")).into()
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    #[test]
    fn a_file_is_a_string_of_its_base64() {
        for length in 0..200 {
            let file: Bytes = (0..length).map(|i| (i * 37) as u8).collect();
            let expected = serde_json::to_string(&STANDARD.encode(&file)).unwrap();
            assert_eq!(serde_json::to_string(&Base64(file)).unwrap(), expected);
        }
    }
}
