//! The encoder of the VAE, used by editing pipelines.

use candle_core::{DType, Tensor, bail};
use kernels::{Conv3x3, Linear};

use super::Statistics;
use super::blocks::{MidBlock, ResidualBlock, gamma};
use crate::Result;
use crate::error::LoadError;
use crate::qwen_image::config::VaeConfig;
use crate::scope::Scope;

/// Encodes pixels to latents: four resolutions downwards, then a middle block at the lowest.
///
/// Port of `QwenImageEncoder3d`,
/// <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/models/autoencoders/autoencoder_kl_qwenimage.py#L378>
pub struct VaeEncoder {
    conv_in: Conv3x3,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    norm_out: Tensor,
    conv_out: Conv3x3,
    quant_conv: Linear,
    statistics: Statistics,
    z_dim: usize,
    activations: DType,
}

/// One entry of the checkpoint's flat list of blocks.
enum DownBlock {
    Residual(ResidualBlock),
    Downsample(Conv3x3),
}

impl VaeEncoder {
    /// Loads the encoder from the component's root.
    ///
    /// # Errors
    /// A tensor is missing or misshapen.
    pub fn load(config: &VaeConfig, scope: &Scope<'_>) -> Result<Self, LoadError> {
        let encoder = scope.pp("encoder");
        let widths: Vec<usize> = config.dim_mult.iter().map(|mult| mult * config.base_dim).collect();
        let last = widths.len() - 1;
        let (mut down_blocks, mut input) = (Vec::new(), config.base_dim);
        for (i, &out) in widths.iter().enumerate() {
            for _ in 0..config.num_res_blocks {
                let scope = encoder.pp("down_blocks").pp(down_blocks.len());
                down_blocks.push(DownBlock::Residual(ResidualBlock::load(input, out, &scope)?));
                input = out;
            }
            if i < last {
                let scope = encoder.pp("down_blocks").pp(down_blocks.len()).pp("resample.1");
                down_blocks.push(DownBlock::Downsample(scope.conv3x3(out, out, false)?));
            }
        }
        Ok(VaeEncoder {
            conv_in: encoder.pp("conv_in").conv3x3(3, config.base_dim, true)?,
            down_blocks,
            mid_block: MidBlock::load(widths[last], &encoder.pp("mid_block"))?,
            norm_out: gamma(&encoder, "norm_out", widths[last], 3)?,
            conv_out: encoder.pp("conv_out").conv3x3(widths[last], 2 * config.z_dim, true)?,
            quant_conv: scope.pp("quant_conv").conv1x1(2 * config.z_dim, 2 * config.z_dim, 3)?,
            statistics: Statistics::load(config, scope)?,
            z_dim: config.z_dim,
            activations: scope.precision().activations,
        })
    }

    /// Encodes pixels `[h, w, 3]` in -1..=1 to normalised latents `[h/8, w/8, z_dim]` in f32. Returns the mean of their
    /// distribution, as diffusers' editing pipelines use it.
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
            x = match block {
                DownBlock::Residual(resnet) => resnet.forward(&x)?,
                DownBlock::Downsample(conv) => conv.forward_stride2(&x)?,
            };
            show(&format!("down.{i}"), &x);
        }
        x = self.mid_block.forward(&x)?;
        show("mid", &x);
        x = self.conv_out.forward_norm_silu(&x, &self.norm_out, None)?;
        show("out", &x);
        x = self.quant_conv.forward(&x)?;
        show("quant_conv", &x);
        let mean = x.narrow(2, 0, self.z_dim)?.to_dtype(DType::F32)?;
        mean.broadcast_sub(&self.statistics.mean)?.broadcast_div(&self.statistics.std)
    }
}
