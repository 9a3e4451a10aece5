//! The decoder of the VAE.

use candle_core::{DType, Tensor};
use kernels::{Conv3x3, Linear};

use super::blocks::{MidBlock, ResidualBlock, gamma};
use crate::Result;
use crate::error::LoadError;
use crate::qwen_image::config::VaeConfig;
use crate::scope::Scope;

/// Decodes latents to pixels: a middle block at the lowest resolution, then four resolutions upwards.
pub struct VaeDecoder {
    post_quant_conv: Linear,
    conv_in: Conv3x3,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    norm_out: Tensor,
    conv_out: Conv3x3,
    activations: DType,
}

impl VaeDecoder {
    pub(super) fn load(config: &VaeConfig, scope: &Scope<'_>) -> Result<Self, LoadError> {
        let decoder = scope.pp("decoder");
        let widths: Vec<usize> = config.dim_mult.iter().rev().map(|mult| mult * config.base_dim).collect();
        let (top, last) = (widths[0], widths.len() - 1);
        let up_blocks = widths.iter().enumerate().map(|(i, &out)| {
            // An upsampler halves the channels that it passes to the next resolution.
            let input = if i == 0 { top } else { widths[i - 1] / 2 };
            UpBlock::load(config.num_res_blocks + 1, input, out, i < last, &decoder.pp("up_blocks").pp(i))
        });
        Ok(VaeDecoder {
            post_quant_conv: scope.pp("post_quant_conv").conv1x1(config.z_dim, config.z_dim, 3)?,
            conv_in: decoder.pp("conv_in").conv3x3(config.z_dim, top, true)?,
            mid_block: MidBlock::load(top, &decoder.pp("mid_block"))?,
            up_blocks: up_blocks.collect::<Result<_, _>>()?,
            norm_out: gamma(&decoder, "norm_out", widths[last], 3)?,
            conv_out: decoder.pp("conv_out").conv3x3(widths[last], 3, true)?,
            activations: scope.precision().activations,
        })
    }

    /// Decodes latents `[h, w, z_dim]` to pixels `[8h, 8w, 3]` in f32, nominally in -1..=1. They are not clamped, so
    /// that infinite values can be detected.
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
        let pixels = self.conv_out.forward_norm_silu(&x, &self.norm_out, None)?;
        show("out", &pixels);
        pixels.to_dtype(DType::F32)
    }
}

/// The residual blocks of one resolution, and the upsampling to the next.
struct UpBlock {
    resnets: Vec<ResidualBlock>,
    upsampler: Option<Conv3x3>,
}

impl UpBlock {
    fn load(n_resnets: usize, input: usize, out: usize, upsamples: bool, scope: &Scope<'_>) -> Result<Self, LoadError> {
        let resnet = |i: usize| ResidualBlock::load(if i == 0 { input } else { out }, out, &scope.pp("resnets").pp(i));
        let upsampler = match upsamples {
            true => Some(scope.pp("upsamplers.0.resample.1").conv3x3(out, out / 2, false)?),
            false => None,
        };
        Ok(UpBlock { resnets: (0..n_resnets).map(resnet).collect::<Result<_, _>>()?, upsampler })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.resnets.iter().try_fold(x.clone(), |x, resnet| resnet.forward(&x))?;
        match &self.upsampler {
            Some(conv) => conv.forward_upsampled(&x),
            None => Ok(x),
        }
    }
}
