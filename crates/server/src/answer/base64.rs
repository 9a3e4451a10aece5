//! Base64 in JSON, of megabytes.

use std::borrow::Cow;

use axum::body::Bytes;
use base64_simd::STANDARD;
use serde::ser::{Error, Serialize, Serializer};
use serde_json::value::RawValue;
use utoipa::openapi::schema::Type;
use utoipa::openapi::{Object, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// A file that JSON has in base64. It is encoded when it is written, and copied as it stands: base64 has
/// nothing to escape, and looking for it takes longer than the encoding.
#[derive(Debug)]
pub(crate) struct Base64(pub(crate) Bytes);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(self.0.len().div_ceil(3) * 4 + 2);
        text.push('"');
        STANDARD.encode_append(&self.0, &mut text);
        text.push('"');
        RawValue::from_string(text).map_err(S::Error::custom)?.serialize(serializer)
    }
}

impl ToSchema for Base64 {
    fn name() -> Cow<'static, str> {
        "Base64".into()
    }
}

impl PartialSchema for Base64 {
    fn schema() -> RefOr<Schema> {
        Object::builder().schema_type(Type::String).content_encoding("base64").into()
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    #[test]
    fn a_file_is_the_text_that_it_was_before() {
        for length in 0..200_u8 {
            let file: Vec<u8> = (0..length).map(|i| i.wrapping_mul(37)).collect();
            let expected = serde_json::to_string(&STANDARD.encode(&file)).unwrap();
            assert_eq!(serde_json::to_string(&Base64(file.into())).unwrap(), expected);
        }
    }
}
