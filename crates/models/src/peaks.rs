//! The memory that the stages of a request need while they run, from the shapes of the networks.
//!
//! Each stage holds most at one place: the text encoder and a transformer block inside their feed-forward network, the
//! VAE in its residual blocks at full resolution. What is counted there is every tensor that is alive at that line, so
//! these numbers change with the code of the blocks; a test holds them against what the allocator sees.

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

/// Of a VAE's residual blocks, `resolutions` with the full one first, each of half the sides of the one before: the
/// picture as it came to the resolution, and a block's input, inner picture and output. In f32 beside them the pixels,
/// and what they are rounded from. Where convolutions are not packed, on a device, each makes columns of its input.
pub(crate) fn vae(resolutions: &[Resolution], is_packed: bool) -> usize {
    const PIXELS: usize = 9;
    let columns = if is_packed { 0 } else { 9 + 3 };
    let of = |(level, Resolution { input, output }): (u32, &Resolution)| {
        (input + (3 + columns) * output).div_ceil(4_usize.pow(level))
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
        assert_eq!(vae(&[resolution(96, 96), resolution(192, 192), resolution(192, 384)], true), 4 * 96 + 9);
        assert_eq!(vae(&[resolution(256, 128), resolution(512, 256)], true), 256 + 3 * 128 + 9);
        assert_eq!(vae(&[resolution(8, 8), resolution(96, 96)], true), 96 + 9);
        assert!(vae(&[resolution(96, 96)], false) > 4 * vae(&[resolution(96, 96)], true) - 100);
    }
}
