//! The decoder of the VAE.

use candle_core::{DType, Tensor};
use kernels::{Conv3x3, GroupNorm, Linear};

use super::blocks::{MidBlock, Resnets, group_norm};
use super::config::VaeConfig;
use crate::Result;
use crate::error::LoadError;
use crate::scope::Scope;

/// Decodes latents to pixels: a middle block at the lowest resolution, then four resolutions upwards.
///
/// Port of diffusers' `Decoder`,
/// <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/models/autoencoders/vae.py#L183>
pub struct VaeDecoder {
    post_quant_conv: Linear,
    conv_in: Conv3x3,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv3x3,
    activations: DType,
}

/// The residual blocks of one resolution, and the upsampling to the next.
struct UpBlock {
    resnets: Resnets,
    upsampler: Option<Conv3x3>,
}

impl VaeDecoder {
    pub(super) fn load(config: &VaeConfig, scope: &Scope<'_>) -> Result<Self, LoadError> {
        let (decoder, groups) = (scope.pp("decoder"), config.norm_num_groups);
        let widths: Vec<usize> = config.decoder_widths().iter().rev().copied().collect();
        let last = widths.len() - 1;
        let up_blocks = widths.iter().enumerate().map(|(i, &out)| {
            let (scope, input) = (decoder.pp("up_blocks").pp(i), widths[i.saturating_sub(1)]);
            let upsampler = match i < last {
                true => Some(scope.pp("upsamplers.0.conv").conv3x3(out, out, false)?),
                false => None,
            };
            Ok(UpBlock { resnets: Resnets::load(config.layers_per_block + 1, input, out, groups, &scope)?, upsampler })
        });
        let latent_channels = config.latent_channels;
        Ok(VaeDecoder {
            post_quant_conv: scope.pp("post_quant_conv").conv1x1(latent_channels, latent_channels, 2)?,
            conv_in: decoder.pp("conv_in").conv3x3(latent_channels, widths[0], false)?,
            mid_block: MidBlock::load(widths[0], groups, &decoder.pp("mid_block"))?,
            up_blocks: up_blocks.collect::<Result<_, LoadError>>()?,
            conv_norm_out: group_norm(widths[last], groups, &decoder.pp("conv_norm_out"))?,
            conv_out: decoder.pp("conv_out").conv3x3(widths[last], 3, false)?,
            activations: scope.precision().activations,
        })
    }

    /// Decodes latents `[h, w, latent_channels]` to pixels `[8h, 8w, 3]` in f32, nominally in -1..=1. They are not
    /// clamped, so that infinite values can be detected.
    ///
    /// # Errors
    /// The device fails.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        self.decode_stages(latents, |_, _| ())
    }

    /// Decodes like [`VaeDecoder::decode`], and passes each stage to `show` under its module's name in the checkpoint.
    ///
    /// # Errors
    /// The device fails.
    pub fn decode_stages(&self, latents: &Tensor, mut show: impl FnMut(&str, &Tensor)) -> Result<Tensor> {
        let mut x = self.post_quant_conv.forward(&latents.to_dtype(self.activations)?)?;
        show("post_quant_conv", &x);
        x = self.conv_in.forward(&x)?;
        show("conv_in", &x);
        x = self.mid_block.forward(&x)?;
        show("mid", &x);
        for (i, block) in self.up_blocks.iter().enumerate() {
            x = block.forward(&x)?;
            show(&format!("up.{i}"), &x);
        }
        let pixels = self.conv_out.forward_group_norm_silu(&x, &self.conv_norm_out, None)?;
        show("out", &pixels);
        pixels.to_dtype(DType::F32)
    }
}

impl UpBlock {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.resnets.forward(x)?;
        match &self.upsampler {
            Some(conv) => conv.forward_upsampled(&x),
            None => Ok(x),
        }
    }
}
