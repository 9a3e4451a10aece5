//! Latents as tokens of 2x2, and back.

use candle_core::{DType, Tensor};

use crate::Result;

/// Latents `[channels, h, w]` as tokens `[h/2 w/2, 4 channels]`, a token's 2x2 patch varying fastest.
///
/// # Errors
/// The device fails.
pub fn pack(latents: &Tensor) -> Result<Tensor> {
    let (channels, height, width) = latents.dims3()?;
    let (rows, columns) = (height / 2, width / 2);
    let patches = latents.reshape((channels, rows, 2, columns, 2))?;
    patches.permute((1, 3, 0, 2, 4))?.reshape((rows * columns, 4 * channels))
}

/// Tokens `[rows columns, 4 channels]` as latents `[2 rows, 2 columns, channels]`, as the VAE reads them.
///
/// # Errors
/// The device fails.
pub fn unpack(tokens: &Tensor, (rows, columns): (usize, usize)) -> Result<Tensor> {
    let channels = tokens.dim(1)? / 4;
    let patches = tokens.to_dtype(DType::F32)?.reshape((rows, columns, channels, 2, 2))?;
    patches.permute((0, 3, 1, 4, 2))?.reshape((2 * rows, 2 * columns, channels))
}
