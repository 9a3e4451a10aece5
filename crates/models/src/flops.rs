//! What networks compute, from their sizes.

use std::iter::Sum;
use std::ops::{Add, Mul};

use diffusion::ImageSize;

/// Floating point operations of a network, as a polynomial of what it runs on: tokens, patches or positions. A
/// multiplication and its addition are two; norms, gates and activations are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Flops {
    /// For each token.
    pub linear: f64,
    /// For each pair of tokens: where all look at all.
    pub quadratic: f64,
}

impl Flops {
    /// Of layers with so many weights, each used once a token.
    pub fn weights(weights: usize) -> Self {
        Flops { linear: 2.0 * weights as f64, quadratic: 0.0 }
    }

    /// Of an attention whose heads are so wide together: scores, and the mean of the values.
    pub fn attention(width: usize) -> Self {
        Flops { linear: 0.0, quadratic: 4.0 * width as f64 }
    }

    /// Of one in which a token looks at those before it alone.
    pub fn causal_attention(width: usize) -> Self {
        Flops { linear: 0.0, quadratic: 2.0 * width as f64 }
    }

    /// Of one in which each token looks at `window` tokens.
    pub fn windowed_attention(width: usize, window: usize) -> Self {
        Flops { linear: Flops::attention(width).quadratic * window as f64, quadratic: 0.0 }
    }

    /// Of so many tokens that look at each other.
    pub fn of(self, tokens: usize) -> f64 {
        let tokens = tokens as f64;
        (self.linear + self.quadratic * tokens) * tokens
    }

    /// The same network by tokens of `positions` positions each.
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

/// What the networks of one model compute.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelFlops {
    /// One block of each segment, by the text and image tokens of a pass together.
    pub blocks: Vec<Flops>,
    /// The layers that lead an image token into its stream and out of it.
    pub image_token: f64,
    /// The layers that lead a text token into its stream.
    pub text_token: f64,
    /// The text encoder, by its tokens.
    pub text_encoder: Flops,
    /// Tokens of the prompt's template that the text encoder reads and the transformer does not see.
    pub template_tokens: usize,
    /// The vision tower, by the patches of one picture.
    pub vision: Flops,
    /// The VAE's encoder, by image tokens, 16x16 pixels each.
    pub vae_encoder: Flops,
    /// The VAE's decoder, by image tokens.
    pub vae_decoder: Flops,
}

/// Positions of the VAE's latents in an image token.
const POSITIONS: usize = 4;

/// Adds up the layers of one half of a VAE, by the positions of its latents.
#[derive(Default)]
pub(crate) struct VaeFlops(Flops);

impl VaeFlops {
    /// A convolution of `side` x `side` outputs a position, with a kernel of `kernel` x `kernel`.
    pub(crate) fn conv(mut self, side: usize, kernel: usize, input: usize, out: usize) -> Self {
        self.0 = self.0 + Flops::weights(side * side * kernel * kernel * input * out);
        self
    }

    /// Residual blocks of two 3x3 convolutions each, the first from `input` channels.
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

    /// The middle: two residual blocks around an attention over all positions.
    pub(crate) fn middle(mut self, width: usize) -> Self {
        self = self.resnets(1, 2, width, width);
        self.0 = self.0 + Flops::weights(4 * width * width) + Flops::attention(width);
        self
    }

    /// By image tokens.
    pub(crate) fn by_tokens(self) -> Flops {
        self.0.by_tokens_of(POSITIONS)
    }
}

/// A preview without the VAE, by image tokens: a linear map of `channels` to colours, enlarged.
pub(crate) fn sketch(channels: usize) -> Flops {
    // Each pixel's colours are taken from two rows and two columns.
    const ENLARGED: usize = 64 * 3 * 4;
    Flops::weights(3 * (channels + 1) + ENLARGED).by_tokens_of(POSITIONS)
}

/// A picture brought to another size by Lanczos, one axis after the other: each colour is the mean of six pixels, and of
/// as many more as there are fewer of it.
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
