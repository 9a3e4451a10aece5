//! The number formats of a loaded network.

use candle_core::{DType, Device};
use kernels::Products;

/// The number formats and the device of a loaded network.
#[derive(Clone, Debug)]
pub struct Precision {
    /// Type of the stored weights: f32, f16 or bf16.
    pub weights: DType,
    /// Type of the activations between layers.
    pub activations: DType,
    /// Device of weights and activations.
    pub device: Device,
}

impl Precision {
    /// Weights in `weights` on `device`. On the CPU the activations stay f32: half-precision weights then halve the
    /// memory at no loss of speed, and the only rounding is that of the weights.
    pub fn new(weights: DType, device: Device) -> Self {
        let activations = if device.is_cpu() { DType::F32 } else { weights };
        Precision { weights, activations, device }
    }

    /// The type to which attentions may round f32 activations: bf16 only if the weights are stored in bf16.
    pub(crate) fn products(&self) -> Products {
        if self.weights == DType::BF16 { Products::Bf16 } else { Products::F32 }
    }
}

/// Quantization of the attention projections and feed-forward networks in a diffusion transformer's blocks. Modulation,
/// embeddings and the output projection, the text encoder and the VAE are not quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantization {
    /// Eight-bit integers: see [`kernels::Linear::int8`].
    Int8,
    /// Eight-bit floats: see [`kernels::Linear::fp8`].
    Fp8,
}

impl Quantization {
    /// Whether the layers of block `index` are quantized in a transformer of `num_blocks` blocks.
    pub(crate) fn rounds_block(self, index: usize, num_blocks: usize) -> bool {
        let left_at_each_end = match self {
            Quantization::Int8 => 0,
            Quantization::Fp8 => FP8_BLOCKS_LEFT,
        };
        index >= left_at_each_end && index + left_at_each_end < num_blocks
    }
}

/// Blocks at either end of a transformer that fp8 does not quantize. The first block's rounding error passes through
/// all later blocks, and the last block's goes straight into the picture.
const FP8_BLOCKS_LEFT: usize = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fp8_leaves_the_first_and_the_last_block() {
        let rounded = |format: Quantization, num| (0..num).map(|i| format.rounds_block(i, num)).collect::<Vec<_>>();
        assert_eq!(rounded(Quantization::Fp8, 4), [false, true, true, false]);
        assert_eq!(rounded(Quantization::Fp8, 1), [false]);
        assert_eq!(rounded(Quantization::Int8, 2), [true, true]);
    }
}
