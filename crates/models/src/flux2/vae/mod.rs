//! The VAE of FLUX.2, and the normalisation of its latents as tokens.
//!
//! Port of `AutoencoderKLFlux2`,
//! <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/models/autoencoders/autoencoder_kl_flux2.py#L38>
//!
//! A token is a 2x2 patch of latents, normalised by the running statistics of a batch norm. Feature maps are `[height,
//! width, channels]`, so that convolutions read and write whole channel vectors.

mod blocks;
mod config;
mod decoder;
mod encoder;

use candle_core::{DType, Tensor};

pub use self::config::VaeConfig;
pub use self::decoder::VaeDecoder;
pub use self::encoder::VaeEncoder;
use crate::Result;
use crate::error::LoadError;
use crate::scope::Scope;

/// The decoder, and the statistics of the tokens.
pub struct Vae {
    decoder: VaeDecoder,
    /// Mean and standard deviation of each channel of a token, `[4 latent_channels]` in f32.
    mean: Tensor,
    std: Tensor,
}

impl Vae {
    /// Loads the decoder and the statistics from the component's root.
    ///
    /// # Errors
    /// A tensor is missing or misshapen.
    pub fn load(config: &VaeConfig, scope: &Scope<'_>) -> Result<Self, LoadError> {
        let bn = scope.pp("bn");
        let wide = |name| bn.device(bn.get(4 * config.latent_channels, name)?.to_dtype(DType::F32));
        let (mean, variance) = (wide("running_mean")?, wide("running_var")?);
        let std = bn.device((variance + config.batch_norm_eps).and_then(|variance| variance.sqrt()))?;
        Ok(Vae { decoder: VaeDecoder::load(config, scope)?, mean, std })
    }

    /// Decodes unnormalised latents `[h, w, latent_channels]` in f32 to pixels `[8h, 8w, 3]` in f32, nominally in
    /// -1..=1.
    ///
    /// # Errors
    /// The device fails.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        self.decoder.decode(latents)
    }

    /// Normalises tokens `[n, 4 latent_channels]` for the transformer: `(x - mean) / sqrt(variance + eps)`.
    ///
    /// # Errors
    /// The device fails.
    pub fn normalize(&self, tokens: &Tensor) -> Result<Tensor> {
        tokens.broadcast_sub(&self.mean)?.broadcast_div(&self.std)
    }

    /// Converts tokens to the decoder's scale. The inverse of [`Vae::normalize`].
    ///
    /// # Errors
    /// The device fails.
    pub fn denormalize(&self, tokens: &Tensor) -> Result<Tensor> {
        tokens.broadcast_mul(&self.std)?.broadcast_add(&self.mean)
    }

    /// Returns the decoder.
    pub fn decoder(&self) -> &VaeDecoder {
        &self.decoder
    }
}
