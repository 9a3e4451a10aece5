//! The VAE, as the two-dimensional network that it is at one frame.
//!
//! Port of `AutoencoderKLQwenImage`: every causal 3x3x3 convolution meets one frame behind two of
//! padding, so only its last temporal slice counts; the temporal resampling never runs.
//! <https://github.com/huggingface/diffusers/blob/v0.37.0/src/diffusers/models/autoencoders/autoencoder_kl_qwenimage.py#L668>
//!
//! Feature maps are `[height, width, channels]`: convolutions then read and write whole vectors.

use candle_core::{DType, Tensor};
use kernels::{Conv3x3, Linear, attention, channel_norm};

use super::config::VaeConfig;
use crate::Result;
use crate::error::LoadError;
use crate::weights::Scope;

/// The decoding half with the latents' statistics around it.
pub struct Vae {
    decoder: VaeDecoder,
    /// Mean and standard deviation of each latent channel, `[z_dim]`.
    mean: Tensor,
    std: Tensor,
}

impl Vae {
    /// Loads the decoder from the component's root.
    ///
    /// # Errors
    /// A tensor is missing or misshapen.
    pub fn load(config: &VaeConfig, scope: &Scope<'_>) -> Result<Self, LoadError> {
        let precision = scope.precision();
        let vector = |list: &[f32]| scope.device(Tensor::new(list, &precision.device));
        Ok(Vae {
            decoder: VaeDecoder::load(config, scope)?,
            mean: vector(&config.latents_mean)?,
            std: vector(&config.latents_std)?,
        })
    }

    /// Normalised latents `[h, w, z_dim]` in f32 to pixels `[8h, 8w, 3]` in -1..=1, f32.
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
        latents.broadcast_mul(&self.std)?.broadcast_add(&self.mean)
    }

    /// The network itself.
    pub fn decoder(&self) -> &VaeDecoder {
        &self.decoder
    }
}

/// Latents to pixels: a middle at the lowest resolution, then four resolutions upwards.
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
    fn load(config: &VaeConfig, scope: &Scope<'_>) -> Result<Self, LoadError> {
        let decoder = scope.pp("decoder");
        let widths: Vec<usize> = config.dim_mult.iter().rev().map(|mult| mult * config.base_dim).collect();
        let (top, last) = (widths[0], widths.len() - 1);
        let up_blocks = widths.iter().enumerate().map(|(i, &out)| {
            // An upsampler halves the channels it passes up.
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

    /// Latents `[h, w, z_dim]` to pixels `[8h, 8w, 3]` in -1..=1, f32.
    ///
    /// # Errors
    /// The device fails.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        self.decode_stages(latents, |_, _| ())
    }

    /// As [`VaeDecoder::decode`], showing each stage by the name that its module has in the checkpoint.
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
        pixels.to_dtype(DType::F32)?.clamp(-1_f32, 1_f32)
    }
}

/// Residual block, attention, residual block.
struct MidBlock {
    resnets: [ResidualBlock; 2],
    attention: AttentionBlock,
}

impl MidBlock {
    fn load(width: usize, scope: &Scope<'_>) -> Result<Self, LoadError> {
        let resnet = |i: usize| ResidualBlock::load(width, width, &scope.pp("resnets").pp(i));
        Ok(MidBlock {
            resnets: [resnet(0)?, resnet(1)?],
            attention: AttentionBlock::load(width, &scope.pp("attentions.0"))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.resnets[0].forward(x)?;
        self.resnets[1].forward(&self.attention.forward(&x)?)
    }
}

/// The residual blocks of one resolution, and the way to the next.
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

/// Twice norm, SiLU, convolution, around a shortcut.
struct ResidualBlock {
    norm1: Tensor,
    conv1: Conv3x3,
    norm2: Tensor,
    conv2: Conv3x3,
    /// On the raw input, where the number of channels changes.
    conv_shortcut: Option<Linear>,
}

impl ResidualBlock {
    fn load(input: usize, out: usize, scope: &Scope<'_>) -> Result<Self, LoadError> {
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

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let hidden = self.conv1.forward_norm_silu(x, &self.norm1, None)?;
        match &self.conv_shortcut {
            Some(shortcut) => self.conv2.forward_norm_silu(&hidden, &self.norm2, Some(&shortcut.forward(x)?)),
            None => self.conv2.forward_norm_silu(&hidden, &self.norm2, Some(x)),
        }
    }
}

/// Attention of one head over all positions of the lowest resolution.
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

/// The scale of a channel norm; on disk it is `[channels, 1, …]`.
fn gamma(scope: &Scope<'_>, name: &str, channels: usize, spatial_dims: usize) -> Result<Tensor, LoadError> {
    let shape: Vec<usize> = [vec![channels], vec![1; spatial_dims]].concat();
    let gamma = scope.pp(name).get(shape, "gamma")?;
    scope.device(gamma.flatten_all().and_then(|gamma| gamma.to_dtype(scope.precision().activations)))
}
