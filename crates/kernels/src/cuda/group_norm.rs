//! Group norm of pictures: `cuda/group_norm.cu`.

use candle_core::{DType, Result, Tensor};

use super::argument::Address;
use super::gpu::{Kernel, gpu, grid, is_served};
use super::layout::{WIDTH, dense};
use crate::GroupNorm;

const GROUP_SUMS: Kernel = Kernel { module: "group_norm", name: "group_sums" };
const GROUP_MOMENTS: Kernel = Kernel { module: "group_norm", name: "group_moments" };
const APPLY_GROUP_NORM: Kernel = Kernel { module: "group_norm", name: "apply_group_norm" };

const BLOCK: usize = 256;
/// The largest number of slices of pixels, several for each of a large card's 130 multiprocessors, and the number of
/// pixels worth a slice.
const MAX_SLICES: usize = 512;
const PIXELS_A_SLICE: usize = 64;

pub(super) fn group_norm(x: &Tensor, norm: &GroupNorm, with_silu: bool) -> Result<Option<Tensor>> {
    let (dtype, (height, width, channels)) = (x.dtype(), x.dims3()?);
    let columns = channels / WIDTH;
    if !is_served(dtype) || !channels.is_multiple_of(WIDTH) || columns > BLOCK {
        return Ok(None);
    }
    let (gpu, x, groups, pixels) = (gpu(x)?, dense(x)?, norm.num_groups, height * width);
    let (slices, pixels_a_block) = (pixels.div_ceil(PIXELS_A_SLICE).min(MAX_SLICES), BLOCK / columns);
    let (sums, moments) = (gpu.output((slices, groups, 2), DType::F32)?, gpu.output((groups, 2), DType::F32)?);
    let out = gpu.output(x.shape(), dtype)?;
    let (from, to) = (Address::of(&x)?, Address::of(&out)?);
    let (of_slices, of_groups) = (Address::of(&sums)?, Address::of(&moments)?);
    let (pixels, num_channels, num_groups) = (pixels as i64, channels as i32, groups as i32);
    let shared_bytes = pixels_a_block * channels * 2 * size_of::<f32>();
    gpu.launch(
        GROUP_SUMS,
        dtype,
        grid((slices, 1, 1), (columns, pixels_a_block), shared_bytes),
        &[&from, &of_slices, &pixels, &num_channels, &num_groups],
    )?;
    gpu.launch(
        GROUP_MOMENTS,
        dtype,
        grid((groups, 1, 1), (32, 1), 0),
        &[&from, &of_slices, &of_groups, &(slices as i32), &pixels, &num_channels, &num_groups, &(norm.eps as f32)],
    )?;
    let pieces = x.elem_count() / WIDTH;
    let (weight, bias) = (Address::of(&norm.weight)?, Address::of(&norm.bias)?);
    let (pieces_arg, silu) = (pieces as i64, i32::from(with_silu));
    gpu.launch(
        APPLY_GROUP_NORM,
        dtype,
        grid((pieces.div_ceil(BLOCK), 1, 1), (BLOCK, 1), 0),
        &[&from, &of_groups, &weight, &bias, &to, &pieces_arg, &num_channels, &num_groups, &silu],
    )?;
    Ok(Some(out))
}
