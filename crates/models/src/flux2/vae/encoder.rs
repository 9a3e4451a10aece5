//! The encoder of the VAE.

use candle_core::{DType, Tensor, bail};
use kernels::{Conv3x3, GroupNorm, Linear};

use super::blocks::{MidBlock, Resnets, group_norm};
use super::config::VaeConfig;
use crate::Result;
use crate::error::LoadError;
use crate::scope::Scope;

/// Encodes pixels to latents: four resolutions downwards, then a middle block at the lowest.
///
/// Port of diffusers' `Encoder`,
/// <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/models/autoencoders/vae.py#L62>
pub struct VaeEncoder {
    conv_in: Conv3x3,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    conv_norm_out: GroupNorm,
    conv_out: Conv3x3,
    quant_conv: Linear,
    latent_channels: usize,
    activations: DType,
}

/// The residual blocks of one resolution, and the downsampling to the next.
struct DownBlock {
    resnets: Resnets,
    downsampler: Option<Conv3x3>,
}

impl VaeEncoder {
    /// Loads the encoder from the component's root.
    ///
    /// # Errors
    /// A tensor is missing or misshapen.
    pub fn load(config: &VaeConfig, scope: &Scope<'_>) -> Result<Self, LoadError> {
        let (encoder, groups) = (scope.pp("encoder"), config.norm_num_groups);
        let (widths, moments) = (&config.block_out_channels, 2 * config.latent_channels);
        let last = widths.len() - 1;
        let down_blocks = widths.iter().enumerate().map(|(i, &out)| {
            let (scope, input) = (encoder.pp("down_blocks").pp(i), widths[i.saturating_sub(1)]);
            let downsampler = match i < last {
                true => Some(scope.pp("downsamplers.0.conv").conv3x3(out, out, false)?),
                false => None,
            };
            Ok(DownBlock { resnets: Resnets::load(config.layers_per_block, input, out, groups, &scope)?, downsampler })
        });
        Ok(VaeEncoder {
            conv_in: encoder.pp("conv_in").conv3x3(3, widths[0], false)?,
            down_blocks: down_blocks.collect::<Result<_, LoadError>>()?,
            mid_block: MidBlock::load(widths[last], groups, &encoder.pp("mid_block"))?,
            conv_norm_out: group_norm(widths[last], groups, &encoder.pp("conv_norm_out"))?,
            conv_out: encoder.pp("conv_out").conv3x3(widths[last], moments, false)?,
            quant_conv: scope.pp("quant_conv").conv1x1(moments, moments, 2)?,
            latent_channels: config.latent_channels,
            activations: scope.precision().activations,
        })
    }

    /// Encodes pixels `[h, w, 3]` in -1..=1 to latents `[h/8, w/8, latent_channels]` in f32. Returns the mean of their
    /// distribution, as diffusers' pipelines use it.
    ///
    /// # Errors
    /// A side is not a multiple of 8, or the device fails.
    pub fn encode(&self, pixels: &Tensor) -> Result<Tensor> {
        self.encode_stages(pixels, |_, _| ())
    }

    /// Encodes like [`VaeEncoder::encode`], and passes each stage to `show` under its module's name in the checkpoint.
    ///
    /// # Errors
    /// The same as [`VaeEncoder::encode`].
    pub fn encode_stages(&self, pixels: &Tensor, mut show: impl FnMut(&str, &Tensor)) -> Result<Tensor> {
        let (height, width, _) = pixels.dims3()?;
        if height % 8 != 0 || width % 8 != 0 {
            bail!("pixels must have sides that are multiples of 8. Given: {height}, {width}")
        }
        let mut x = self.conv_in.forward(&pixels.to_dtype(self.activations)?)?;
        show("conv_in", &x);
        for (i, block) in self.down_blocks.iter().enumerate() {
            x = block.forward(&x)?;
            show(&format!("down.{i}"), &x);
        }
        x = self.mid_block.forward(&x)?;
        show("mid", &x);
        x = self.conv_out.forward_group_norm_silu(&x, &self.conv_norm_out, None)?;
        show("out", &x);
        x = self.quant_conv.forward(&x)?;
        show("quant_conv", &x);
        x.narrow(2, 0, self.latent_channels)?.to_dtype(DType::F32)?.contiguous()
    }
}

impl DownBlock {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.resnets.forward(x)?;
        match &self.downsampler {
            Some(conv) => conv.forward_stride2(&x),
            None => Ok(x),
        }
    }
}
