//! A finished picture.

use crate::ImageSize;
use crate::raster::Raster;
use serde::{Deserialize, Serialize};

/// An 8-bit RGB picture, rows from the top, three bytes a pixel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Raster", into = "Raster")]
pub struct RgbImage {
    /// Width and height in pixels.
    pub size: ImageSize,
    /// `height * width * 3` bytes.
    pub pixels: Vec<u8>,
}

impl RgbImage {
    /// The centre of the picture, `size` large; `size` must fit inside it.
    ///
    /// A size that is not a multiple of what the model generates is generated at the next multiple and cropped here, so
    /// that a request for 1920x1080 gets exactly 1920x1080.
    pub fn crop_center(self, size: ImageSize) -> RgbImage {
        if size == self.size {
            return self;
        }
        let (left, top) = ((self.size.width - size.width) / 2, (self.size.height - size.height) / 2);
        let rows = self.pixels.chunks_exact(self.size.width * 3).skip(top).take(size.height);
        let pixels = rows.flat_map(|row| &row[left * 3..(left + size.width) * 3]).copied().collect();
        RgbImage { size, pixels }
    }
}

impl From<RgbImage> for Raster {
    fn from(image: RgbImage) -> Self {
        Raster::new(image.size, image.pixels)
    }
}

impl TryFrom<Raster> for RgbImage {
    type Error = String;

    fn try_from(raster: Raster) -> Result<Self, String> {
        raster.of(3).map(|(size, pixels)| RgbImage { size, pixels })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crop_keeps_the_centre() {
        let pixels = (0..4 * 2).flat_map(|i| [i, i, i]).collect();
        let image = RgbImage { size: ImageSize { width: 4, height: 2 }, pixels };
        let cropped = image.crop_center(ImageSize { width: 2, height: 1 });
        assert_eq!(cropped.pixels, [1, 1, 1, 2, 2, 2]);
    }
}
