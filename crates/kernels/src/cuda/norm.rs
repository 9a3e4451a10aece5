//! Norms of one token or pixel at a time: `cuda/norm.cu`.

use candle_core::cuda_backend::cudarc::driver::LaunchConfig;
use candle_core::{D, Result, Tensor};

use super::argument::Address;
use super::gpu::{Kernel, gpu, grid, is_served};
use super::layout::{RowVectors, WIDTH, dense};
use crate::RowLayout;

const MODULATED_LAYER_NORM: Kernel = Kernel { module: "norm", name: "modulated_layer_norm" };
const RMS_NORM: Kernel = Kernel { module: "norm", name: "rms_norm" };
const CHANNEL_NORM: Kernel = Kernel { module: "norm", name: "channel_norm" };
const CHANNEL_NORM_OF_ANY: Kernel = Kernel { module: "norm", name: "channel_norm_of_any" };

/// The largest number of threads per row, and the numbers of a row that each thread holds.
const MAX_THREADS: usize = 512;
const NUMBERS_A_THREAD: usize = 4 * WIDTH;
/// Threads per block if one warp suffices for a row.
const BLOCK: usize = 256;

/// Whether a block can hold the rows of `x`.
pub(super) fn fits(x: &Tensor) -> Result<bool> {
    let dim = x.dim(D::Minus1)?;
    let served = is_served(x.dtype()) && dim.is_multiple_of(WIDTH);
    Ok(served && dim > 0 && dim <= MAX_THREADS * NUMBERS_A_THREAD && x.elem_count() / dim <= i32::MAX as usize)
}

/// The launch configuration for `rows` rows: as few threads per row as hold it, and several rows per block if that is
/// one warp.
pub(super) fn row_grid(rows: usize, dim: usize) -> LaunchConfig {
    let threads = dim.div_ceil(NUMBERS_A_THREAD).next_multiple_of(32).min(MAX_THREADS);
    let rows_a_block = if threads == 32 { BLOCK / 32 } else { 1 };
    grid((rows.div_ceil(rows_a_block), 1, 1), (threads, rows_a_block), 0)
}

pub(super) fn modulated_layer_norm(
    x: &Tensor,
    shift: &Tensor,
    scale: &Tensor,
    rows: &RowLayout,
    eps: f64,
) -> Result<Option<Tensor>> {
    if !fits(x)? {
        return Ok(None);
    }
    let (gpu, x, (tokens, dim)) = (gpu(x)?, dense(x)?, x.dims2()?);
    let out = gpu.output(x.shape(), x.dtype())?;
    if tokens == 0 {
        return Ok(Some(out));
    }
    let (shift, scale) = (RowVectors::of(shift, x.dtype())?, RowVectors::of(scale, x.dtype())?);
    let offsets = rows.offsets_on(x.device())?;
    gpu.launch(
        MODULATED_LAYER_NORM,
        x.dtype(),
        row_grid(tokens, dim),
        &[
            &Address::of(&x)?,
            &Address::of(&shift.tensor)?,
            &Address::of(&scale.tensor)?,
            &Address::of(&offsets)?,
            &Address::of(&out)?,
            &(tokens as i32),
            &(rows.num_rows() as i32),
            &(dim as i32),
            &shift.stride,
            &scale.stride,
            &(eps as f32),
        ],
    )?;
    Ok(Some(out))
}

pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Option<Tensor>> {
    if !fits(x)? {
        return Ok(None);
    }
    let (gpu, x, dim) = (gpu(x)?, dense(x)?, x.dim(D::Minus1)?);
    let (weight, out) = (dense(&weight.to_dtype(x.dtype())?)?, gpu.output(x.shape(), x.dtype())?);
    let rows = x.elem_count() / dim;
    if rows > 0 {
        let (from, weight, to) = (Address::of(&x)?, Address::of(&weight)?, Address::of(&out)?);
        let args: [&dyn super::argument::Argument; 6] =
            [&from, &weight, &to, &(rows as i32), &(dim as i32), &(eps as f32)];
        gpu.launch(RMS_NORM, x.dtype(), row_grid(rows, dim), &args)?;
    }
    Ok(Some(out))
}

pub(super) fn channel_norm(x: &Tensor, gamma: &Tensor, with_silu: bool) -> Result<Option<Tensor>> {
    let channels = x.dim(D::Minus1)?;
    let pixels = x.elem_count() / channels.max(1);
    if !is_served(x.dtype()) || channels == 0 || pixels > i32::MAX as usize {
        return Ok(None);
    }
    // A single thread handles the few channels of small models. No VAE has too many channels for a block.
    let (kernel, config) = match fits(x)? {
        true => (CHANNEL_NORM, row_grid(pixels, channels)),
        false => (CHANNEL_NORM_OF_ANY, grid((pixels.div_ceil(BLOCK), 1, 1), (BLOCK, 1), 0)),
    };
    let (gpu, x) = (gpu(x)?, dense(x)?);
    let (gamma, out) = (dense(&gamma.to_dtype(x.dtype())?)?, gpu.output(x.shape(), x.dtype())?);
    if pixels > 0 {
        let (from, gamma, to) = (Address::of(&x)?, Address::of(&gamma)?, Address::of(&out)?);
        let args: [&dyn super::argument::Argument; 6] =
            [&from, &gamma, &to, &(pixels as i32), &(channels as i32), &i32::from(with_silu)];
        gpu.launch(kernel, x.dtype(), config, &args)?;
    }
    Ok(Some(out))
}
