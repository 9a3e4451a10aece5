//! Activations that are not part of a product: `cuda/elementwise.cu`.

use candle_core::{Result, Tensor};

use super::argument::Address;
use super::gpu::{Kernel, gpu, grid, is_served};
use super::layout::{WIDTH, dense};

const SWIGLU: Kernel = Kernel { module: "elementwise", name: "swiglu" };
const BLOCK: usize = 256;

pub(super) fn swiglu(gate_up: &Tensor) -> Result<Option<Tensor>> {
    let (dtype, (tokens, columns)) = (gate_up.dtype(), gate_up.dims2()?);
    let features = columns / 2;
    if !is_served(dtype) || !features.is_multiple_of(WIDTH) {
        return Ok(None);
    }
    let (gpu, gate_up, pieces) = (gpu(gate_up)?, dense(gate_up)?, tokens * features / WIDTH);
    let out = gpu.output((tokens, features), dtype)?;
    if pieces > 0 {
        gpu.launch(
            SWIGLU,
            dtype,
            grid((pieces.div_ceil(BLOCK), 1, 1), (BLOCK, 1), 0),
            &[&Address::of(&gate_up)?, &Address::of(&out)?, &(pieces as i64), &(features as i32)],
        )?;
    }
    Ok(Some(out))
}
