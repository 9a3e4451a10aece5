//! The number formats of a loaded network.

use candle_core::{DType, Device};
use kernels::Products;

/// The number formats and the device of a loaded network.
#[derive(Clone, Debug)]
pub struct Precision {
    /// What the weights are kept in: f32, f16 or bf16.
    pub weights: DType,
    /// What flows between the layers.
    pub activations: DType,
    /// Where both live.
    pub device: Device,
}

impl Precision {
    /// Weights in `weights` on `device`. On the CPU the activations stay f32: half-precision
    /// weights then cost half the memory and no speed, and only their own rounding shows.
    pub fn new(weights: DType, device: Device) -> Self {
        let activations = if device.is_cpu() { DType::F32 } else { weights };
        Precision { weights, activations, device }
    }

    /// What attentions may round f32 activations to: what the weights were rounded to, if that was asked for.
    pub(crate) fn products(&self) -> Products {
        if self.weights == DType::BF16 { Products::Bf16 } else { Products::F32 }
    }
}

/// What products are rounded to: those of the attention's projections and of the feed-forward networks in the blocks
/// of a diffusion transformer. Modulation, embeddings and the output projection, the text encoder and the VAE stay as
/// they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantization {
    /// Eight-bit integers: see [`kernels::Linear::int8`].
    Int8,
    /// Eight-bit floats: see [`kernels::Linear::fp8`].
    Fp8,
}

impl Quantization {
    /// Whether it rounds the layers of block `index` of a transformer of so many.
    pub(crate) fn rounds_block(self, index: usize, num_blocks: usize) -> bool {
        let left_at_each_end = match self {
            Quantization::Int8 => 0,
            Quantization::Fp8 => FP8_BLOCKS_LEFT,
        };
        index >= left_at_each_end && index + left_at_each_end < num_blocks
    }
}

/// Blocks at either end of a transformer that eight-bit floats leave as they are: what the first one rounds is in
/// everything behind it, and what the last one rounds is in the picture as it is.
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
