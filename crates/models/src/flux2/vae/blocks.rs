//! Blocks shared by the VAE's encoder and decoder.

use candle_core::Tensor;
use kernels::{Conv3x3, GroupNorm, Linear, attention};

use crate::Result;
use crate::error::LoadError;
use crate::scope::Scope;

/// Epsilon of every group norm in the network.
const EPS: f64 = 1e-6;

/// Residual block, attention, residual block.
pub(super) struct MidBlock {
    resnets: [ResnetBlock; 2],
    attention: Attention,
}

impl MidBlock {
    pub(super) fn load(width: usize, groups: usize, scope: &Scope<'_>) -> Result<Self, LoadError> {
        let resnet = |i: usize| ResnetBlock::load(width, width, groups, &scope.pp("resnets").pp(i));
        Ok(MidBlock {
            resnets: [resnet(0)?, resnet(1)?],
            attention: Attention::load(width, groups, &scope.pp("attentions.0"))?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.resnets[0].forward(x)?;
        self.resnets[1].forward(&self.attention.forward(&x)?)
    }
}

/// The residual blocks of one resolution.
pub(super) struct Resnets(Vec<ResnetBlock>);

impl Resnets {
    /// Loads `count` blocks, the first from `input` channels.
    pub(super) fn load(
        count: usize,
        input: usize,
        out: usize,
        groups: usize,
        scope: &Scope<'_>,
    ) -> Result<Self, LoadError> {
        let resnet = |i: usize| {
            let input = if i == 0 { input } else { out };
            ResnetBlock::load(input, out, groups, &scope.pp("resnets").pp(i))
        };
        Ok(Resnets((0..count).map(resnet).collect::<Result<_, _>>()?))
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.0.iter().try_fold(x.clone(), |x, resnet| resnet.forward(&x))
    }
}

/// Two times norm, SiLU and convolution, around a shortcut: diffusers' `ResnetBlock2D` without a time embedding,
/// <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/models/resnet.py#L188>.
struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv3x3,
    norm2: GroupNorm,
    conv2: Conv3x3,
    /// Applied to the raw input, if the number of channels changes.
    conv_shortcut: Option<Linear>,
}

impl ResnetBlock {
    fn load(input: usize, out: usize, groups: usize, scope: &Scope<'_>) -> Result<Self, LoadError> {
        let conv_shortcut = match input == out {
            true => None,
            false => Some(scope.pp("conv_shortcut").conv1x1(input, out, 2)?),
        };
        Ok(ResnetBlock {
            norm1: group_norm(input, groups, &scope.pp("norm1"))?,
            conv1: scope.pp("conv1").conv3x3(input, out, false)?,
            norm2: group_norm(out, groups, &scope.pp("norm2"))?,
            conv2: scope.pp("conv2").conv3x3(out, out, false)?,
            conv_shortcut,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let hidden = self.conv1.forward_group_norm_silu(x, &self.norm1, None)?;
        match &self.conv_shortcut {
            Some(shortcut) => self.conv2.forward_group_norm_silu(&hidden, &self.norm2, Some(&shortcut.forward(x)?)),
            None => self.conv2.forward_group_norm_silu(&hidden, &self.norm2, Some(x)),
        }
    }
}

/// Single-head attention over all positions of the lowest resolution.
struct Attention {
    group_norm: GroupNorm,
    to_qkv: Linear,
    to_out: Linear,
}

impl Attention {
    fn load(width: usize, groups: usize, scope: &Scope<'_>) -> Result<Self, LoadError> {
        Ok(Attention {
            group_norm: group_norm(width, groups, &scope.pp("group_norm"))?,
            to_qkv: scope.fused_linear(&["to_q", "to_k", "to_v"], width, &[width; 3], true)?,
            to_out: scope.pp("to_out.0").linear(width, width)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (height, width, channels) = x.dims3()?;
        let qkv = self.to_qkv.forward(&self.group_norm.forward(x)?)?.reshape((height * width, 3 * channels))?;
        let chunk = |i: usize| qkv.narrow(1, i * channels, channels)?.contiguous();
        let attended = attention(&chunk(0)?, &chunk(1)?, &chunk(2)?, 1)?;
        self.to_out.forward(&attended.reshape((height, width, channels))?)? + x
    }
}

/// Loads the group norm at `scope`.
pub(super) fn group_norm(channels: usize, groups: usize, scope: &Scope<'_>) -> Result<GroupNorm, LoadError> {
    let (weight, bias) = (scope.get(channels, "weight")?, scope.get(channels, "bias")?);
    scope.device(GroupNorm::new(&weight, &bias, groups, EPS))
}
