//! The VAE, as the two-dimensional network that it is at one frame.
//!
//! Port of `AutoencoderKLQwenImage`: every causal 3x3x3 convolution meets one frame behind two of
//! padding, so only its last temporal slice counts; the temporal resampling never runs.
//! <https://github.com/huggingface/diffusers/blob/v0.37.0/src/diffusers/models/autoencoders/autoencoder_kl_qwenimage.py#L668>
//!
//! Its halves are loaded apart: text to image decodes only. Feature maps are
//! `[height, width, channels]`: convolutions then read and write whole vectors.

mod blocks;
mod decoder;
mod encoder;

use candle_core::Tensor;

pub use self::decoder::VaeDecoder;
pub use self::encoder::VaeEncoder;
use super::config::VaeConfig;
use crate::Result;
use crate::error::LoadError;
use crate::tiling::Tiling;
use crate::weights::Scope;

/// The tiles of a large picture, 256 pixels wide of which 64 overlap: `AutoencoderKLQwenImage`'s own numbers.
pub(super) const TILING: Tiling = Tiling { side: 32, stride: 24 };

/// The decoding half with the latents' statistics before it.
pub struct Vae {
    decoder: VaeDecoder,
    statistics: Statistics,
}

impl Vae {
    /// Loads the decoder from the component's root.
    ///
    /// # Errors
    /// A tensor is missing or misshapen.
    pub fn load(config: &VaeConfig, scope: &Scope<'_>) -> Result<Self, LoadError> {
        Ok(Vae { decoder: VaeDecoder::load(config, scope)?, statistics: Statistics::load(config, scope)? })
    }

    /// Normalised latents `[h, w, z_dim]` in f32 to pixels `[8h, 8w, 3]`, f32: seen from -1 to 1.
    ///
    /// # Errors
    /// The device fails.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        self.decoder.decode(&self.denormalize(latents)?)
    }

    /// Latents with the statistics that the decoder was trained on.
    ///
    /// # Errors
    /// The device fails.
    pub fn denormalize(&self, latents: &Tensor) -> Result<Tensor> {
        latents.broadcast_mul(&self.statistics.std)?.broadcast_add(&self.statistics.mean)
    }

    /// The network itself.
    pub fn decoder(&self) -> &VaeDecoder {
        &self.decoder
    }
}

/// Mean and standard deviation of each latent channel, `[z_dim]`.
struct Statistics {
    mean: Tensor,
    std: Tensor,
}

impl Statistics {
    fn load(config: &VaeConfig, scope: &Scope<'_>) -> Result<Self, LoadError> {
        let vector = |list: &[f32]| scope.device(Tensor::new(list, &scope.precision().device));
        Ok(Statistics { mean: vector(&config.latents_mean)?, std: vector(&config.latents_std)? })
    }
}
