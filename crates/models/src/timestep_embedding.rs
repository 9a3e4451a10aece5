//! Embedding of a scalar (a noise level or a guidance scale): a sinusoid, then two layers.
//!
//! Port of `get_timestep_embedding` and `TimestepEmbedding`:
//! <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/models/embeddings.py#L27>

use candle_core::{Device, Tensor};
use kernels::Linear;

use crate::Result;
use crate::error::LoadError;
use crate::scope::Scope;

/// Two linear layers with a SiLU between them.
pub(crate) struct TimestepEmbedder {
    linear_1: Linear,
    linear_2: Linear,
}

impl TimestepEmbedder {
    /// Loads layers from `channels` to `dim`, either both with a bias or both without.
    pub(crate) fn load(channels: usize, dim: usize, bias: bool, scope: &Scope<'_>) -> Result<Self, LoadError> {
        let linear = |name: &str, in_features| match bias {
            true => scope.pp(name).linear(in_features, dim),
            false => scope.pp(name).linear_no_bias(in_features, dim),
        };
        Ok(TimestepEmbedder { linear_1: linear("linear_1", channels)?, linear_2: linear("linear_2", dim)? })
    }

    /// Maps `[rows, channels]` to `[rows, dim]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.linear_2.forward(&self.linear_1.forward(x)?.silu()?)
    }
}

/// Sinusoidal embedding of each number, `[rows, channels]` in f32: cosines, then sines, of `scale * timestep *
/// frequency`, multiplied in this order. `channels` is even.
///
/// # Errors
/// The device fails.
pub fn timestep_embedding(timesteps: &[f32], channels: usize, scale: f32, device: &Device) -> Result<Tensor> {
    let half = channels / 2;
    let frequency = |k: usize| (-(10_000_f32.ln()) * k as f32 / half as f32).exp();
    let angles = timesteps.iter().flat_map(|timestep| (0..half).map(move |k| scale * (timestep * frequency(k))));
    let angles = Tensor::from_iter(angles, device)?.reshape((timesteps.len(), half))?;
    Tensor::cat(&[angles.cos()?, angles.sin()?], 1)
}
