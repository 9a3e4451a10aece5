//! Serialization of a request's pictures, as bytes of known shape. A mismatched shape is rejected at deserialization,
//! so that all other code may rely on it.

use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::ImageSize;

/// A size and its bytes, whose number is not checked yet.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Raster {
    size: ImageSize,
    bytes: Bytes,
}

impl Raster {
    /// Pairs a size with its bytes.
    pub(crate) fn new(size: ImageSize, bytes: Vec<u8>) -> Self {
        Raster { size, bytes: Bytes(bytes) }
    }

    /// Returns the size and bytes if there are `a_pixel` bytes per pixel and at least one pixel.
    pub(crate) fn of(self, a_pixel: usize) -> Result<(ImageSize, Vec<u8>), String> {
        let Raster { size, bytes: Bytes(bytes) } = self;
        match size.pixels().checked_mul(a_pixel) {
            Some(expected) if expected == bytes.len() && expected > 0 => Ok((size, bytes)),
            _ => Err(format!(
                "a picture of {size} must have {a_pixel} bytes a pixel, and one at least. Given: {} bytes",
                bytes.len()
            )),
        }
    }
}

/// Serializes as a byte string if the format has one, otherwise as a list of numbers.
struct Bytes(Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_byte_buf(BytesVisitor)
    }
}

struct BytesVisitor;

impl<'de> Visitor<'de> for BytesVisitor {
    type Value = Bytes;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("bytes")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
        Ok(Bytes(bytes.to_vec()))
    }

    fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
        Ok(Bytes(bytes))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut numbers: A) -> Result<Bytes, A::Error> {
        // The announced length is not trusted beyond this bound.
        let mut bytes = Vec::with_capacity(numbers.size_hint().unwrap_or(0).min(1 << 20));
        while let Some(byte) = numbers.next_element()? {
            bytes.push(byte);
        }
        Ok(Bytes(bytes))
    }
}
