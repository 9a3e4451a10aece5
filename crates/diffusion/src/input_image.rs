//! Input pictures of a request: the pictures to edit, and the mask.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::raster::Raster;
use crate::{ImageSize, RgbImage};

/// A picture to edit, with the digest that keys its cached encodings.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Raster", into = "Raster")]
pub struct InputImage {
    /// The pixels.
    pub image: RgbImage,
    /// SHA-256 of the size and the pixels. Pictures with the same digest are identical.
    pub digest: [u8; 32],
}

impl InputImage {
    /// Computes the digest of `image`: about a millisecond a megapixel.
    pub fn new(image: RgbImage) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(format!("{};", image.size));
        hasher.update(&image.pixels);
        InputImage { digest: hasher.finalize().into(), image }
    }
}

impl std::fmt::Debug for InputImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "InputImage({})", self.image.size)
    }
}

/// The region of a picture that an edit may change.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Raster", into = "Raster")]
pub struct Mask {
    /// The size of the picture that the mask belongs to.
    pub size: ImageSize,
    /// `height * width` bytes, rows from the top: 255 where the picture is repainted, 0 where it stays.
    pub editable: Vec<u8>,
}

impl Mask {
    /// Builds a mask from the opacity of each pixel, as in OpenAI's masks: transparent pixels are edited.
    pub fn from_alpha(size: ImageSize, alpha: &[u8]) -> Self {
        debug_assert_eq!(alpha.len(), size.pixels());
        Mask { size, editable: alpha.iter().map(|alpha| 255 - alpha).collect() }
    }
}

impl std::fmt::Debug for Mask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mask({})", self.size)
    }
}

impl From<Mask> for Raster {
    fn from(mask: Mask) -> Self {
        Raster::new(mask.size, mask.editable)
    }
}

impl TryFrom<Raster> for Mask {
    type Error = String;

    fn try_from(raster: Raster) -> Result<Self, String> {
        raster.of(1).map(|(size, editable)| Mask { size, editable })
    }
}

/// The digest is not serialized: the receiver computes it from the pixels and trusts no given digest.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn grey(width: usize, height: usize, level: u8) -> InputImage {
        let size = ImageSize { width, height };
        InputImage::new(RgbImage { size, pixels: vec![level; size.pixels() * 3] })
    }

    #[test]
    fn a_digest_tells_sizes_and_pixels_apart() {
        assert_eq!(grey(2, 3, 7), grey(2, 3, 7));
        assert_ne!(grey(2, 3, 7).digest, grey(3, 2, 7).digest);
        assert_ne!(grey(2, 3, 7).digest, grey(2, 3, 8).digest);
    }

    #[test]
    fn what_is_transparent_is_edited() {
        let mask = Mask::from_alpha(ImageSize { width: 3, height: 1 }, &[0, 255, 128]);
        assert_eq!(mask.editable, [255, 0, 127]);
    }
}
