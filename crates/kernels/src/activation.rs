//! Activations that are not part of a matrix product.

use candle_core::{Result, Tensor, bail};

use crate::devices::backend;

/// `silu(gate) * up` of a `[tokens, 2 * features]` matrix whose columns are gate, then up.
///
/// # Errors
/// `gate_up` is not a matrix of an even number of columns.
pub fn swiglu(gate_up: &Tensor) -> Result<Tensor> {
    let (_, columns) = gate_up.dims2()?;
    if columns % 2 != 0 {
        bail!("gate_up must have an even number of columns. Given: {columns}")
    }
    match backend(gate_up.device()).swiglu(gate_up)? {
        Some(activated) => Ok(activated),
        None => swiglu_reference(gate_up),
    }
}

fn swiglu_reference(gate_up: &Tensor) -> Result<Tensor> {
    let features = gate_up.dim(1)? / 2;
    gate_up.narrow(1, 0, features)?.silu()? * gate_up.narrow(1, features, features)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, numbers, on_each_set, randn};
    use crate::with_reference;

    #[test]
    fn kernels_agree_with_candle() {
        on_each_set(|_| {
            for (tokens, features) in [(1, 8), (7, 24), (300, 640), (3, 5), (50, 36), (9, 3420)] {
                let gate_up = randn(1, (tokens, 2 * features));
                let expected = with_reference(|| swiglu(&gate_up)).unwrap();
                assert_close(&format!("swiglu {tokens}x{features}"), &swiglu(&gate_up).unwrap(), &expected, 1e-6);
            }
        });
    }

    #[test]
    fn the_gate_comes_first() {
        on_each_set(|_| {
            let gate_up = Tensor::new(&[[0f32, 30.0, 5.0, 2.0]], &candle_core::Device::Cpu).unwrap();
            assert_eq!(numbers(&swiglu(&gate_up).unwrap()), [0.0, 60.0]);
        });
    }
}
