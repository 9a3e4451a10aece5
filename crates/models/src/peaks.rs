//! The memory that the stages of a request need while they run, from the shapes of the networks.
//!
//! Each stage holds most at one place: the text encoder and a transformer block inside their feed-forward network, the
//! VAE in its residual blocks at full resolution. What is counted there is every tensor that is alive at that line, so
//! these numbers change with the code of the blocks; a test holds them against what the allocator sees.

use candle_core::{DType, Device};

use crate::precision::Precision;
use crate::qwen_decoder::DecoderConfig;

/// Numbers of the activations' type that a stage holds at most, beside what goes into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peaks {
    /// Of the text encoder, for each token of a prompt.
    pub text: usize,
    /// Of a transformer block and what the step cache looks at around it, for each token of a pass.
    pub block: usize,
    /// Of the VAE's encoder, for each pixel.
    pub vae_encoder: usize,
    /// Of the VAE's decoder, for each pixel.
    pub vae_decoder: usize,
}

/// Of a language model: the hidden states before and after, the norm, queries, keys, values and what is attended; the
/// SwiGLU's gate and up in one, and their product.
pub(crate) fn text(config: &DecoderConfig) -> usize {
    10 * config.hidden_size + 3 * config.intermediate_size
}

/// Of a transformer block of this width whose feed-forward network holds so many numbers a token: the stream as it came
/// into the segment, into the middle blocks and into this block; between attention and network; normed, twice; attended;
/// and what comes out. Beside them the rotary table of a head, in f32.
pub(crate) fn block(dim: usize, feed_forward: usize, head_dim: usize) -> usize {
    8 * dim + feed_forward + 2 * head_dim
}

/// Channels of a resolution's first residual block, and of what comes out of each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resolution {
    pub(crate) input: usize,
    pub(crate) output: usize,
}

/// What a VAE's convolutions hold beside what goes in and what comes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Convolutions {
    /// Nothing: the norm is applied as the input is read.
    Fused,
    /// The normed input.
    Normed,
    /// The normed input in three orders, and nine columns of it: candle's.
    Columns,
}

impl Convolutions {
    /// Those of a device, in its numbers.
    pub(crate) fn of(precision: &Precision) -> Self {
        match (&precision.device, precision.activations) {
            (Device::Cpu, _) => Convolutions::Fused,
            (Device::Cuda(_), DType::BF16 | DType::F32) => Convolutions::Normed,
            _ => Convolutions::Columns,
        }
    }
}

/// Of a VAE's residual blocks, `resolutions` with the full one first, each of half the sides of the one before: the
/// picture as it came to the resolution, and a block's input, inner picture and output. In f32 beside them the pixels,
/// and what they are rounded from.
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
        // Of Qwen-Image and of FLUX.2.
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
