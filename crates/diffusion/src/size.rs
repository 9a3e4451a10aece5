//! Picture sizes and what they come to in latents and tokens.

use std::fmt;
use std::str::FromStr;

/// Width and height in pixels, each at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ImageSize {
    /// Pixels from left to right.
    pub width: usize,
    /// Pixels from top to bottom.
    pub height: usize,
}

/// Pixels of one packed latent token's side: the VAE shrinks 8 times, packing twice more.
const TOKEN_SIDE: usize = 16;

impl ImageSize {
    /// The next size that whole tokens cover: what a model generates before the crop.
    pub fn padded(self) -> ImageSize {
        let up = |side: usize| side.next_multiple_of(TOKEN_SIDE);
        ImageSize { width: up(self.width), height: up(self.height) }
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

impl FromStr for ImageSize {
    type Err = ();

    /// Reads `WIDTHxHEIGHT`, both whole numbers of at least 1.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (width, height) = text.split_once('x').ok_or(())?;
        let side = |s: &str| match s.parse::<usize>() {
            Ok(n) if n > 0 && s.bytes().all(|b| b.is_ascii_digit()) => Ok(n),
            _ => Err(()),
        };
        Ok(ImageSize { width: side(width)?, height: side(height)? })
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
    }

    #[test]
    fn a_size_between_multiples_takes_the_next_tokens() {
        let size = ImageSize { width: 1920, height: 1080 };
        assert_eq!(size.padded().to_string(), "1920x1088");
        assert_eq!(size.token_grid(), (68, 120));
        assert_eq!(size.image_seq_len(), 68 * 120);
    }
}
