//! How a VAE takes a picture, whole or in tiles, and what it needs for that: from the picture's size alone, so that the plan,
//! the estimate and the work agree.

use diffusion::ImageSize;

use crate::peaks::Peaks;
use crate::tiling::{Tiling, VaeTiling};

/// Pixels of a token's part of the picture.
const PIXELS: usize = 16 * 16;
/// Of a pixel of a picture that is cut into tiles or put together from them: three numbers in f32, and what is kept for
/// neighbours.
const MOSAIC_BYTES: usize = 16;

/// The encoder or the decoder.
#[derive(Clone, Copy, Debug)]
pub(crate) struct VaeHalf {
    /// What it needs at most while it takes a part of the picture, for each pixel of that.
    bytes_a_pixel: usize,
    tiling: Tiling,
    /// When a picture is taken in tiles.
    when: VaeTiling,
}

impl VaeHalf {
    /// Encoder and decoder of a VAE whose numbers have so many bytes.
    pub(crate) fn both(peaks: &Peaks, activation_bytes: usize, tiling: Tiling, when: VaeTiling) -> [VaeHalf; 2] {
        [peaks.vae_encoder, peaks.vae_decoder].map(|peak| VaeHalf {
            bytes_a_pixel: peak * activation_bytes,
            tiling,
            when,
        })
    }

    /// The tiles in which a picture of this size is taken, if it is.
    pub(crate) fn tiling(self, size: ImageSize) -> Option<Tiling> {
        let is_tiled = match self.when {
            VaeTiling::Never => false,
            VaeTiling::Always => true,
            VaeTiling::Above(bytes) => self.bytes_of(size.image_seq_len()) > bytes,
        };
        Some(self.tiling).filter(|tiling| is_tiled && tiling.divides(latents(size)))
    }

    /// Image tokens that it takes at once, one part of the picture after another.
    pub(crate) fn parts(self, size: ImageSize) -> Vec<usize> {
        match self.tiling(size) {
            Some(tiling) => tiling.tiles(latents(size)).iter().map(|tile| tile.area().div_ceil(4)).collect(),
            None => vec![size.image_seq_len()],
        }
    }

    /// Bytes that it needs at most for a picture of this size.
    pub(crate) fn bytes(self, size: ImageSize) -> u64 {
        let whole = self.tiling(size).map_or(0, |_| size.image_seq_len() * PIXELS * MOSAIC_BYTES);
        let part = self.parts(size).into_iter().max().unwrap_or(0);
        self.bytes_of(part) + whole as u64
    }

    fn bytes_of(self, tokens: usize) -> u64 {
        (tokens * PIXELS * self.bytes_a_pixel) as u64
    }
}

/// Rows and columns of a picture's latents.
fn latents(size: ImageSize) -> (usize, usize) {
    let (rows, columns) = size.token_grid();
    (2 * rows, 2 * columns)
}
