//! How the pictures of a request travel: as bytes of known shape. What does not have that shape is refused where it arrives, so that
//! all else may rely on it.

use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::{ImageSize, InputImage, Mask, RgbImage};

/// A size and as many bytes as it says.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Raster {
    size: ImageSize,
    bytes: Bytes,
}

impl Raster {
    /// Its parts, where there are so many bytes a pixel.
    fn of(self, a_pixel: usize) -> Result<(ImageSize, Vec<u8>), String> {
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

impl From<RgbImage> for Raster {
    fn from(image: RgbImage) -> Self {
        Raster { size: image.size, bytes: Bytes(image.pixels) }
    }
}

impl TryFrom<Raster> for RgbImage {
    type Error = String;

    fn try_from(raster: Raster) -> Result<Self, String> {
        raster.of(3).map(|(size, pixels)| RgbImage { size, pixels })
    }
}

impl From<Mask> for Raster {
    fn from(mask: Mask) -> Self {
        Raster { size: mask.size, bytes: Bytes(mask.editable) }
    }
}

impl TryFrom<Raster> for Mask {
    type Error = String;

    fn try_from(raster: Raster) -> Result<Self, String> {
        raster.of(1).map(|(size, editable)| Mask { size, editable })
    }
}

/// The digest does not travel: whoever is given pixels says themselves what they are.
impl From<InputImage> for Raster {
    fn from(input: InputImage) -> Self {
        input.image.into()
    }
}

impl TryFrom<Raster> for InputImage {
    type Error = String;

    fn try_from(raster: Raster) -> Result<Self, String> {
        RgbImage::try_from(raster).map(InputImage::new)
    }
}

/// Pictures that several requests share.
pub(crate) mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::{InputImage, Mask};

    pub(crate) mod images {
        use super::*;

        pub(crate) fn serialize<S: Serializer>(images: &Arc<[InputImage]>, serializer: S) -> Result<S::Ok, S::Error> {
            images[..].serialize(serializer)
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<[InputImage]>, D::Error> {
            Vec::deserialize(deserializer).map(Into::into)
        }
    }

    pub(crate) mod mask {
        use super::*;

        pub(crate) fn serialize<S: Serializer>(mask: &Option<Arc<Mask>>, serializer: S) -> Result<S::Ok, S::Error> {
            mask.as_deref().serialize(serializer)
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Arc<Mask>>, D::Error> {
            Option::deserialize(deserializer).map(|mask: Option<Mask>| mask.map(Arc::new))
        }
    }
}

/// One piece where the format has such, else a list of numbers.
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
        // What is said of the length is not believed further than this.
        let mut bytes = Vec::with_capacity(numbers.size_hint().unwrap_or(0).min(1 << 20));
        while let Some(byte) = numbers.next_element()? {
            bytes.push(byte);
        }
        Ok(Bytes(bytes))
    }
}

#[cfg(test)]
mod tests;
