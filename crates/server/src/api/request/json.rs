//! Parsing a JSON body into fields.

use std::fmt;
use std::io::{BufReader, Read};

use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::de;

use super::given::Fields;
use super::reading::FieldsVisitor;
use super::vocabulary::known;
use crate::api::error::ApiError;

/// Some editors and Windows programs begin a text with it.
const BYTE_ORDER_MARK: [u8; 3] = *b"\xef\xbb\xbf";

/// Parses a JSON object in one piece. Unless `keeps_pictures`, pictures are only counted.
///
/// # Errors
/// It is not valid JSON, or not an object.
pub(crate) fn of_slice(body: &[u8], keeps_pictures: bool) -> Result<Fields, ApiError> {
    parse(de::SliceRead::new(body.strip_prefix(&BYTE_ORDER_MARK).unwrap_or(body)), keeps_pictures)
}

/// Same as [`of_slice`], for a body longer than [`BYTE_ORDER_MARK`] that is read in pieces.
///
/// # Errors
/// Same as [`of_slice`], or `body` cannot be read.
pub(crate) fn of_reader(body: impl Read, keeps_pictures: bool) -> Result<Fields, ApiError> {
    let mut reader = BufReader::new(body);
    let mut mark = [0; BYTE_ORDER_MARK.len()];
    reader.read_exact(&mut mark).map_err(|err| ApiError::Internal(format!("reading a body: {err}")))?;
    let begun = if mark == BYTE_ORDER_MARK { &[][..] } else { &mark };
    parse(de::IoRead::new(begun.chain(reader)), keeps_pictures)
}

/// The fields of a body with this JSON.
#[cfg(test)]
pub(crate) fn of_value(value: serde_json::Value) -> Fields {
    parse(de::SliceRead::new(value.to_string().as_bytes()), true).unwrap()
}

fn parse<'de>(bytes: impl de::Read<'de>, keeps_pictures: bool) -> Result<Fields, ApiError> {
    let mut json = serde_json::Deserializer::new(bytes);
    let read = json.deserialize_any(WholeVisitor { keeps_pictures }).and_then(|whole| json.end().map(|()| whole));
    match read.map_err(ApiError::InvalidJson)? {
        Whole::Object(fields) => Ok(fields),
        Whole::Other(kind) => Err(ApiError::NotAnObject(kind)),
    }
}

/// The top level of a body.
enum Whole {
    Object(Fields),
    Other(&'static str),
}

struct WholeVisitor {
    keeps_pictures: bool,
}

const SINGLE: Whole = Whole::Other("a single value");

impl<'de> Visitor<'de> for WholeVisitor {
    type Value = Whole;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Whole, A::Error> {
        FieldsVisitor::whole(self.keeps_pictures, known).visit_map(object).map(Whole::Object)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Whole, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Whole::Other("an array"))
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Whole, E> {
        Ok(Whole::Other("a string"))
    }

    fn visit_unit<E: Error>(self) -> Result<Whole, E> {
        Ok(SINGLE)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Whole, E> {
        Ok(SINGLE)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Whole, E> {
        Ok(SINGLE)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Whole, E> {
        Ok(SINGLE)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Whole, E> {
        Ok(SINGLE)
    }
}
