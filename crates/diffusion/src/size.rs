//! Picture sizes and their extent in latents and tokens.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Maximum side of a picture of any area: RoPE tables hold 4096 tokens a side, from the centre.
pub(crate) const MAX_SIDE: usize = 16_384;

/// Width and height in pixels, each at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ImageSize {
    /// Pixels from left to right.
    pub width: usize,
    /// Pixels from top to bottom.
    pub height: usize,
}

/// Side of a packed latent token in pixels: the VAE downsamples by 8, packing by 2.
const TOKEN_SIDE: usize = 16;

impl ImageSize {
    /// The next size in whole tokens: the generated size before the crop.
    pub fn padded(self) -> ImageSize {
        let up = |side: usize| side.next_multiple_of(TOKEN_SIDE);
        ImageSize { width: up(self.width), height: up(self.height) }
    }

    /// A size in whole tokens of this shape with at most, and about, `pixels` pixels. A strip narrower than a token, or
    /// longer than the maximum side, is made less extreme.
    pub fn scaled_to_area(self, pixels: usize) -> ImageSize {
        let area = pixels.max(TOKEN_SIDE * TOKEN_SIDE) as f64;
        let side_bound = |side: usize| (side * side) as f64;
        let most = (area / side_bound(TOKEN_SIDE)).min(side_bound(MAX_SIDE) / area).max(1.0);
        let ratio = (self.width as f64 / self.height as f64).clamp(1.0 / most, most);
        let (width, height) = ((area * ratio).sqrt(), (area / ratio).sqrt());
        let tokens = |round: fn(f64) -> f64| {
            let side = |side: f64| (round(side / TOKEN_SIDE as f64).max(1.0) as usize) * TOKEN_SIDE;
            ImageSize { width: side(width), height: side(height) }
        };
        let nearest = tokens(f64::round);
        // The tolerance counts a side just under a whole token as that token.
        if nearest.pixels() as f64 <= area { nearest } else { tokens(|tokens| (tokens + 1e-9).floor()) }
    }

    /// Rows and columns of packed latent tokens.
    pub fn token_grid(self) -> (usize, usize) {
        (self.height.div_ceil(TOKEN_SIDE), self.width.div_ceil(TOKEN_SIDE))
    }

    /// Packed latent tokens of the picture.
    pub fn image_seq_len(self) -> usize {
        let (rows, columns) = self.token_grid();
        rows * columns
    }

    /// Width times height, saturating.
    pub fn pixels(self) -> usize {
        self.width.saturating_mul(self.height)
    }
}

impl fmt::Display for ImageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

/// The reason why a text is not a size, phrased as the bound it violates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSize {
    /// It does not have the form of a size.
    #[error("be WIDTHxHEIGHT in pixels, such as 1024x1024")]
    Form,
    /// A side is 0.
    #[error("have sides of at least 1 pixel")]
    Empty,
}

impl FromStr for ImageSize {
    type Err = InvalidSize;

    /// Reads `WIDTHxHEIGHT`, both whole numbers of at least 1.
    fn from_str(text: &str) -> Result<Self, InvalidSize> {
        let (width, height) = text.split_once('x').ok_or(InvalidSize::Form)?;
        let side = |s: &str| match s.parse::<usize>() {
            Ok(n) if s.bytes().all(|b| b.is_ascii_digit()) => Ok(n),
            _ => Err(InvalidSize::Form),
        };
        let size = ImageSize { width: side(width)?, height: side(height)? };
        if size.width == 0 || size.height == 0 { Err(InvalidSize::Empty) } else { Ok(size) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written_alike() {
        assert_eq!("1024x768".parse::<ImageSize>().unwrap().to_string(), "1024x768");
        for bad in ["", "1024", "0x16", "16x0", "16x-16", "+16x16", "axb", "16x16x16", "1e3x16"] {
            assert!(bad.parse::<ImageSize>().is_err(), "{bad}");
        }
        let empty = "have sides of at least 1 pixel";
        for (bad, bound) in [("0x0", empty), ("16x0", empty), ("0", "be WIDTHxHEIGHT in pixels, such as 1024x1024")] {
            assert_eq!(bad.parse::<ImageSize>().unwrap_err().to_string(), bound, "{bad}");
        }
    }

    #[test]
    fn a_shape_is_kept_at_another_area() {
        let scaled = |width, height| ImageSize { width, height }.scaled_to_area(1024 * 1024).to_string();
        for (width, height, expected) in [
            (1024, 1024, "1024x1024"),
            (3, 3, "1024x1024"),
            (4032, 3024, "1184x880"),
            (3024, 4032, "880x1184"),
            (1920, 1080, "1360x768"),
            (16_384, 16, "16384x64"),
            (16_384, 1, "16384x64"),
            (1, 16_384, "64x16384"),
        ] {
            assert_eq!(scaled(width, height), expected, "{width}x{height}");
        }
        let [strip, dot] = [256 * 256, 1].map(|pixels| ImageSize { width: 9999, height: 1 }.scaled_to_area(pixels));
        assert_eq!((strip.to_string(), dot.to_string()), ("4096x16".into(), "16x16".into()));
    }

    #[test]
    fn a_scaled_size_is_within_the_area_in_whole_tokens() {
        for width in (1..4000).step_by(37) {
            for pixels in [256, 16_384, 60_000, 1024 * 1024, 7680 * 4320] {
                let size = ImageSize { width, height: 811 }.scaled_to_area(pixels);
                assert_eq!(size, size.padded());
                assert!(size.pixels() <= pixels && 2 * size.pixels() > pixels, "{width} {pixels}: {size}");
            }
        }
    }

    #[test]
    fn a_size_between_multiples_takes_the_next_tokens() {
        let size = ImageSize { width: 1920, height: 1080 };
        assert_eq!(size.padded().to_string(), "1920x1088");
        assert_eq!(size.token_grid(), (68, 120));
        assert_eq!(size.image_seq_len(), 68 * 120);
    }
}
