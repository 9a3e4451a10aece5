//! Activations that are not part of a matrix product.

use candle_core::{Result, Tensor, bail};

/// `silu(gate) * up` of a `[tokens, 2 * features]` matrix whose columns are gate, then up.
///
/// # Errors
/// `gate_up` is not a matrix of an even number of columns.
pub fn swiglu(gate_up: &Tensor) -> Result<Tensor> {
    let (_, columns) = gate_up.dims2()?;
    if columns % 2 != 0 {
        bail!("gate_up must have an even number of columns. Given: {columns}")
    }
    swiglu_reference(gate_up)
}

fn swiglu_reference(gate_up: &Tensor) -> Result<Tensor> {
    let features = gate_up.dim(1)? / 2;
    gate_up.narrow(1, 0, features)?.silu()? * gate_up.narrow(1, features, features)?
}
