//! Blocks shared by the VAE's encoder and decoder.

use candle_core::Tensor;
use kernels::{Conv3x3, Linear, attention, channel_norm};

use crate::Result;
use crate::error::LoadError;
use crate::scope::Scope;

/// Residual block, attention, residual block.
pub(super) struct MidBlock {
    resnets: [ResidualBlock; 2],
    attention: AttentionBlock,
}

impl MidBlock {
    pub(super) fn load(width: usize, scope: &Scope<'_>) -> Result<Self, LoadError> {
        let resnet = |i: usize| ResidualBlock::load(width, width, &scope.pp("resnets").pp(i));
        Ok(MidBlock {
            resnets: [resnet(0)?, resnet(1)?],
            attention: AttentionBlock::load(width, &scope.pp("attentions.0"))?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.resnets[0].forward(x)?;
        self.resnets[1].forward(&self.attention.forward(&x)?)
    }
}

/// Two times norm, SiLU and convolution, around a shortcut.
pub(super) struct ResidualBlock {
    norm1: Tensor,
    conv1: Conv3x3,
    norm2: Tensor,
    conv2: Conv3x3,
    /// Applied to the raw input, if the number of channels changes.
    conv_shortcut: Option<Linear>,
}

impl ResidualBlock {
    pub(super) fn load(input: usize, out: usize, scope: &Scope<'_>) -> Result<Self, LoadError> {
        let conv_shortcut = match input == out {
            true => None,
            false => Some(scope.pp("conv_shortcut").conv1x1(input, out, 3)?),
        };
        Ok(ResidualBlock {
            norm1: gamma(scope, "norm1", input, 3)?,
            conv1: scope.pp("conv1").conv3x3(input, out, true)?,
            norm2: gamma(scope, "norm2", out, 3)?,
            conv2: scope.pp("conv2").conv3x3(out, out, true)?,
            conv_shortcut,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let hidden = self.conv1.forward_norm_silu(x, &self.norm1, None)?;
        match &self.conv_shortcut {
            Some(shortcut) => self.conv2.forward_norm_silu(&hidden, &self.norm2, Some(&shortcut.forward(x)?)),
            None => self.conv2.forward_norm_silu(&hidden, &self.norm2, Some(x)),
        }
    }
}

/// Single-head attention over all positions of the lowest resolution.
struct AttentionBlock {
    norm: Tensor,
    to_qkv: Linear,
    proj: Linear,
}

impl AttentionBlock {
    fn load(width: usize, scope: &Scope<'_>) -> Result<Self, LoadError> {
        Ok(AttentionBlock {
            norm: gamma(scope, "norm", width, 2)?,
            to_qkv: scope.pp("to_qkv").conv1x1(width, 3 * width, 2)?,
            proj: scope.pp("proj").conv1x1(width, width, 2)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (height, width, channels) = x.dims3()?;
        let qkv = self.to_qkv.forward(&channel_norm(x, &self.norm)?)?.reshape((height * width, 3 * channels))?;
        let chunk = |i: usize| qkv.narrow(1, i * channels, channels)?.contiguous();
        let attended = attention(&chunk(0)?, &chunk(1)?, &chunk(2)?, 1)?;
        self.proj.forward(&attended.reshape((height, width, channels))?)? + x
    }
}

/// Loads the scale of a channel norm; on disk it is `[channels, 1, …]`.
pub(super) fn gamma(scope: &Scope<'_>, name: &str, channels: usize, spatial_dims: usize) -> Result<Tensor, LoadError> {
    let shape: Vec<usize> = [vec![channels], vec![1; spatial_dims]].concat();
    let gamma = scope.pp(name).get(shape, "gamma")?;
    scope.device(gamma.flatten_all().and_then(|gamma| gamma.to_dtype(scope.precision().activations)))
}
