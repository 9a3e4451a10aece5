//! Floating point operations of networks, from their sizes.

use std::iter::Sum;
use std::ops::{Add, Mul};

use diffusion::ImageSize;

/// Floating point operations of a network, as a polynomial in the number of its tokens, patches or positions. A
/// multiply-add counts as two; norms, gates and activations are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Flops {
    /// Operations per token.
    pub linear: f64,
    /// Operations per pair of tokens, where every token attends to all.
    pub quadratic: f64,
}

impl Flops {
    /// Operations of layers with this many weights, each used once per token.
    pub fn weights(weights: usize) -> Self {
        Flops { linear: 2.0 * weights as f64, quadratic: 0.0 }
    }

    /// Operations of an attention: the scores and the weighted mean of the values. `width` is the sum of its heads'
    /// widths.
    pub fn attention(width: usize) -> Self {
        Flops { linear: 0.0, quadratic: 4.0 * width as f64 }
    }

    /// Operations of a causal attention.
    pub fn causal_attention(width: usize) -> Self {
        Flops { linear: 0.0, quadratic: 2.0 * width as f64 }
    }

    /// Operations of an attention in which each token attends to `window` tokens.
    pub fn windowed_attention(width: usize, window: usize) -> Self {
        Flops { linear: Flops::attention(width).quadratic * window as f64, quadratic: 0.0 }
    }

    /// Operations for `tokens` tokens that attend to each other.
    pub fn of(self, tokens: usize) -> f64 {
        let tokens = tokens as f64;
        (self.linear + self.quadratic * tokens) * tokens
    }

    /// Returns the same operations as a function of tokens that hold `positions` positions each.
    pub fn by_tokens_of(self, positions: usize) -> Self {
        let positions = positions as f64;
        Flops { linear: self.linear * positions, quadratic: self.quadratic * positions * positions }
    }
}

impl Add for Flops {
    type Output = Flops;

    fn add(self, other: Flops) -> Flops {
        Flops { linear: self.linear + other.linear, quadratic: self.quadratic + other.quadratic }
    }
}

impl Mul<usize> for Flops {
    type Output = Flops;

    fn mul(self, times: usize) -> Flops {
        Flops { linear: self.linear * times as f64, quadratic: self.quadratic * times as f64 }
    }
}

impl Sum for Flops {
    fn sum<I: Iterator<Item = Flops>>(all: I) -> Flops {
        all.fold(Flops::default(), Add::add)
    }
}

/// Operations of one model's networks.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelFlops {
    /// One block of each segment, by the number of text and image tokens in a pass.
    pub blocks: Vec<Flops>,
    /// The layers that embed an image token and project it back.
    pub image_token: f64,
    /// The layers that embed a text token.
    pub text_token: f64,
    /// The text encoder, by the number of its tokens.
    pub text_encoder: Flops,
    /// Tokens of the prompt template, which the text encoder reads and the transformer does not see.
    pub template_tokens: usize,
    /// The vision tower, by the number of patches of one picture.
    pub vision: Flops,
    /// The VAE's encoder, by image tokens of 16x16 pixels.
    pub vae_encoder: Flops,
    /// The VAE's decoder, by image tokens.
    pub vae_decoder: Flops,
}

/// Latent positions of the VAE per image token.
const POSITIONS: usize = 4;

/// Sums the layers of a VAE's encoder or decoder, by latent positions.
#[derive(Default)]
pub(crate) struct VaeFlops(Flops);

impl VaeFlops {
    /// Adds a convolution with `side` x `side` outputs per position and a kernel of `kernel` x `kernel`.
    pub(crate) fn conv(mut self, side: usize, kernel: usize, input: usize, out: usize) -> Self {
        self.0 = self.0 + Flops::weights(side * side * kernel * kernel * input * out);
        self
    }

    /// Adds residual blocks of two 3x3 convolutions each, the first from `input` channels.
    pub(crate) fn resnets(mut self, side: usize, count: usize, input: usize, out: usize) -> Self {
        for i in 0..count {
            let input = if i == 0 { input } else { out };
            self = self.conv(side, 3, input, out).conv(side, 3, out, out);
            if input != out {
                self = self.conv(side, 1, input, out);
            }
        }
        self
    }

    /// Adds the middle: two residual blocks around an attention over all positions.
    pub(crate) fn middle(mut self, width: usize) -> Self {
        self = self.resnets(1, 2, width, width);
        self.0 = self.0 + Flops::weights(4 * width * width) + Flops::attention(width);
        self
    }

    /// Returns the sum by image tokens.
    pub(crate) fn by_tokens(self) -> Flops {
        self.0.by_tokens_of(POSITIONS)
    }
}

/// Operations of a preview without the VAE, by image tokens: a linear map of `channels` to colours, then an upscale.
pub(crate) fn sketch(channels: usize) -> Flops {
    // Bilinear upscaling: each pixel's colours come from two rows and two columns.
    const ENLARGED: usize = 64 * 3 * 4;
    Flops::weights(3 * (channels + 1) + ENLARGED).by_tokens_of(POSITIONS)
}

/// Operations of a Lanczos resize, one axis after the other. Each colour is a mean of six pixels, or of more in
/// proportion when the picture shrinks.
pub(crate) fn resizing(from: ImageSize, to: ImageSize) -> f64 {
    if from == to {
        return 0.0;
    }
    let window = |from: usize, to: usize| 6.0 * (from as f64 / to as f64).max(1.0);
    let across = (to.width * from.height) as f64 * window(from.width, to.width);
    let down = to.pixels() as f64 * window(from.height, to.height);
    2.0 * 3.0 * (across + down)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_add_up_and_attention_grows_with_the_square() {
        let block = Flops::weights(10) + Flops::attention(3) * 2;
        assert_eq!(block, Flops { linear: 20.0, quadratic: 24.0 });
        assert_eq!(block.of(5), 20.0 * 5.0 + 24.0 * 25.0);
        assert_eq!(block.by_tokens_of(4).of(5), block.of(20));
        let size = |side| ImageSize { width: side, height: side };
        assert_eq!(resizing(size(8), size(8)), 0.0);
        assert_eq!(resizing(size(8), size(16)), 6.0 * 6.0 * (16.0 * 8.0 + 16.0 * 16.0));
        assert_eq!(resizing(size(16), size(8)), 6.0 * 12.0 * (8.0 * 16.0 + 8.0 * 8.0));
        let windows = Flops::windowed_attention(3, 7);
        assert_eq!(windows.of(14), 2.0 * Flops::attention(3).of(7), "two windows of seven");
    }
}
