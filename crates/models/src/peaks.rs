//! Peak memory of a request's stages, from the shapes of the networks.
//!
//! Each stage has its peak at one place: the text encoder and the transformer blocks inside their feed-forward network,
//! the VAE in its residual blocks at full resolution. The formulas count every tensor alive at that line, so they must
//! change with the code of the blocks. A test compares them with the allocator's count.

use candle_core::{DType, Device};

use crate::precision::Precision;
use crate::qwen_decoder::DecoderConfig;

/// Peak number of elements that a stage holds beside its input, in the activations' type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peaks {
    /// Text encoder, per prompt token.
    pub text: usize,
    /// Transformer block with the step cache's tensors around it, per token of a pass.
    pub block: usize,
    /// VAE encoder, per pixel.
    pub vae_encoder: usize,
    /// VAE decoder, per pixel.
    pub vae_decoder: usize,
}

/// Elements per token of a language model: the hidden states before and after, the norm, queries, keys, values and
/// attention output; the SwiGLU's fused gate and up projection, and their product.
pub(crate) fn text(config: &DecoderConfig) -> usize {
    10 * config.hidden_size + 3 * config.intermediate_size
}

/// Elements per token of a transformer block of width `dim` whose feed-forward network holds `feed_forward` elements.
/// The stream is alive as input of the segment, of the middle blocks and of this block, after the attention, normed
/// twice, as attention output, and as block output. In addition there is a head's rotary table in f32.
pub(crate) fn block(dim: usize, feed_forward: usize, head_dim: usize) -> usize {
    8 * dim + feed_forward + 2 * head_dim
}

/// Input channels of the first residual block at a resolution, and output channels of each block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resolution {
    pub(crate) input: usize,
    pub(crate) output: usize,
}

/// Tensors that a VAE's convolutions hold beside their input and output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Convolutions {
    /// None: the norm is applied while the input is read.
    Fused,
    /// The normed input.
    Normed,
    /// The normed input in three layouts and its nine im2col columns, in candle's convolution.
    Columns,
}

impl Convolutions {
    /// Returns the kind of convolution that runs on a device with these number formats.
    pub(crate) fn of(precision: &Precision) -> Self {
        match (&precision.device, precision.activations) {
            (Device::Cpu, _) => Convolutions::Fused,
            (Device::Cuda(_), DType::BF16 | DType::F32) => Convolutions::Normed,
            _ => Convolutions::Columns,
        }
    }
}

/// Elements per pixel of a VAE's residual blocks. `resolutions` starts with the full one, and each next one has half
/// the side. Alive are the picture as it entered the resolution, and a block's input, inner tensor and output. In
/// addition there are the pixels in f32 and the values that they are rounded from.
pub(crate) fn vae(resolutions: &[Resolution], convolutions: Convolutions) -> usize {
    const PIXELS: usize = 9;
    let beside = match convolutions {
        Convolutions::Fused => 0,
        Convolutions::Normed => 1,
        Convolutions::Columns => 9 + 3,
    };
    let of = |(level, Resolution { input, output }): (u32, &Resolution)| {
        (input + (3 + beside) * output).div_ceil(4_usize.pow(level))
    };
    (0..).zip(resolutions).map(of).max().unwrap_or(0) + PIXELS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vae_holds_most_at_full_resolution_unless_it_is_very_narrow_there() {
        let resolution = |input, output| Resolution { input, output };
        // Qwen-Image and FLUX.2.
        let (qwen, flux) = (
            [resolution(96, 96), resolution(192, 192), resolution(192, 384)],
            [resolution(256, 128), resolution(512, 256)],
        );
        assert_eq!(vae(&qwen, Convolutions::Fused), 4 * 96 + 9);
        assert_eq!(vae(&flux, Convolutions::Fused), 256 + 3 * 128 + 9);
        assert_eq!(vae(&qwen, Convolutions::Normed), 5 * 96 + 9);
        assert_eq!(vae(&flux, Convolutions::Normed), 256 + 4 * 128 + 9);
        assert_eq!(vae(&[resolution(8, 8), resolution(96, 96)], Convolutions::Fused), 96 + 9);
        assert_eq!(vae(&qwen, Convolutions::Columns), 16 * 96 + 9);
    }
}
