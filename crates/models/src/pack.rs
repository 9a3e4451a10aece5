//! Packing of latents into tokens of 2x2, and back.

use candle_core::{DType, Tensor};

use crate::Result;

/// Packs latents `[h, w, channels]` into tokens `[h/2 w/2, 4 channels]`: channel `c` at row `dy` and column `dx` of a
/// 2x2 patch becomes channel `4c + 2dy + dx`.
///
/// # Errors
/// A side is odd, or the device fails.
pub fn pack(latents: &Tensor) -> Result<Tensor> {
    let (height, width, channels) = latents.dims3()?;
    let (rows, columns) = (height / 2, width / 2);
    let patches = latents.reshape((rows, 2, columns, 2, channels))?;
    patches.permute((0, 2, 4, 1, 3))?.reshape((rows * columns, 4 * channels))
}

/// Unpacks tokens `[rows columns, 4 channels]` into latents `[2 rows, 2 columns, channels]` in f32, as a VAE reads
/// them. The inverse of [`pack`].
///
/// # Errors
/// The number of tokens does not match the grid, or the device fails.
pub fn unpack(tokens: &Tensor, (rows, columns): (usize, usize)) -> Result<Tensor> {
    let channels = tokens.dim(1)? / 4;
    let patches = tokens.to_dtype(DType::F32)?.reshape((rows, columns, channels, 2, 2))?;
    patches.permute((0, 3, 1, 4, 2))?.reshape((2 * rows, 2 * columns, channels))
}
