//! The VAE, reduced to two dimensions because a picture is a single frame.
//!
//! Port of `AutoencoderKLQwenImage`. Every causal 3x3x3 convolution sees one frame after two of padding, so only its
//! last temporal slice matters. The temporal resampling never runs.
//! <https://github.com/huggingface/diffusers/blob/v0.37.0/src/diffusers/models/autoencoders/autoencoder_kl_qwenimage.py#L668>
//!
//! Encoder and decoder are loaded separately, since text to image only decodes. Feature maps are `[height, width,
//! channels]`, so that convolutions read and write whole channel vectors.

mod blocks;
mod decoder;
mod encoder;

use candle_core::Tensor;

pub use self::decoder::VaeDecoder;
pub use self::encoder::VaeEncoder;
use super::config::VaeConfig;
use crate::Result;
use crate::error::LoadError;
use crate::scope::Scope;
use crate::tiling::Tiling;

/// Tiling of a large picture: tiles of 256 pixels that overlap by 64, as in `AutoencoderKLQwenImage`.
pub(super) const TILING: Tiling = Tiling { side: 32, stride: 24 };

/// The decoder, and the statistics of the latents.
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

    /// Decodes normalised latents `[h, w, z_dim]` in f32 to pixels `[8h, 8w, 3]` in f32, nominally in -1..=1.
    ///
    /// # Errors
    /// The device fails.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        self.decoder.decode(&self.denormalize(latents)?)
    }

    /// Converts latents to the scale that the decoder was trained on.
    ///
    /// # Errors
    /// The device fails.
    pub fn denormalize(&self, latents: &Tensor) -> Result<Tensor> {
        latents.broadcast_mul(&self.statistics.std)?.broadcast_add(&self.statistics.mean)
    }

    /// Returns the decoder.
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
