//! How the VAE processes a picture (whole or tiled) and the memory it needs, as functions of the picture's size alone.
//! So the memory plan, the cost estimate and the actual work agree.

use diffusion::ImageSize;

use crate::peaks::Peaks;
use crate::tiling::{Tiling, VaeTiling};

/// Pixels of an image token.
const PIXELS: usize = 16 * 16;
/// Bytes per pixel of a picture that is cut into tiles or assembled from them: three f32 numbers, and what is kept for
/// neighbouring tiles.
const MOSAIC_BYTES: usize = 16;

/// A VAE's encoder or decoder.
#[derive(Clone, Copy, Debug)]
pub(crate) struct VaeHalf {
    /// Peak bytes per pixel of the part that is processed at once.
    bytes_a_pixel: usize,
    tiling: Tiling,
    /// When a picture is tiled.
    when: VaeTiling,
}

impl VaeHalf {
    /// Returns encoder and decoder of a VAE whose activations have `activation_bytes` bytes per element.
    pub(crate) fn both(peaks: &Peaks, activation_bytes: usize, tiling: Tiling, when: VaeTiling) -> [VaeHalf; 2] {
        [peaks.vae_encoder, peaks.vae_decoder].map(|peak| VaeHalf {
            bytes_a_pixel: peak * activation_bytes,
            tiling,
            when,
        })
    }

    /// Returns the tiling of a picture of this size, if it is tiled.
    pub(crate) fn tiling(self, size: ImageSize) -> Option<Tiling> {
        let is_tiled = match self.when {
            VaeTiling::Never => false,
            VaeTiling::Always => true,
            VaeTiling::Above(bytes) => self.bytes_of(size.image_seq_len()) > bytes,
        };
        Some(self.tiling).filter(|tiling| is_tiled && tiling.divides(latents(size)))
    }

    /// Returns the image tokens of each part that is processed at once.
    pub(crate) fn parts(self, size: ImageSize) -> Vec<usize> {
        match self.tiling(size) {
            Some(tiling) => tiling.tiles(latents(size)).iter().map(|tile| tile.area().div_ceil(4)).collect(),
            None => vec![size.image_seq_len()],
        }
    }

    /// Returns the peak bytes for a picture of this size.
    pub(crate) fn bytes(self, size: ImageSize) -> u64 {
        let whole = self.tiling(size).map_or(0, |_| size.image_seq_len() * PIXELS * MOSAIC_BYTES);
        let part = self.parts(size).into_iter().max().unwrap_or(0);
        self.bytes_of(part) + whole as u64
    }

    fn bytes_of(self, tokens: usize) -> u64 {
        (tokens * PIXELS * self.bytes_a_pixel) as u64
    }
}

/// Returns the rows and columns of a picture's latents.
fn latents(size: ImageSize) -> (usize, usize) {
    let (rows, columns) = size.token_grid();
    (2 * rows, 2 * columns)
}
