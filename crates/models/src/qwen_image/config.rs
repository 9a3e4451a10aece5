//! Configuration of a Qwen-Image checkpoint, from its `config.json` files.

use serde::Deserialize;

use crate::bounds::{ConfigFile, HEAD_DIMS, HEADS, LAYERS, WIDTHS};
use crate::checkpoint::Checkpoint;
use crate::error::LoadError;

/// `transformer/config.json` of a `QwenImageTransformer2DModel`. The defaults are the class's own.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default)]
pub struct TransformerConfig {
    /// Side of a packed patch; only 2 is supported.
    pub patch_size: usize,
    /// Channels of a packed token.
    pub in_channels: usize,
    /// Latent channels of the prediction, before packing.
    pub out_channels: usize,
    /// Number of dual-stream blocks.
    pub num_layers: usize,
    /// Width of a head.
    pub attention_head_dim: usize,
    /// Number of heads.
    pub num_attention_heads: usize,
    /// Width of the text encoder's hidden states.
    pub joint_attention_dim: usize,
    /// Rotary channels of frame, row and column; they sum to the head's width.
    pub axes_dims_rope: [usize; 3],
    /// Whether the network takes a distilled guidance scale.
    pub guidance_embeds: bool,
    /// Whether references are modulated as at time 0, as in Edit-2511.
    pub zero_cond_t: bool,
    /// Qwen-Image-Layered's extra time condition.
    pub use_additional_t_cond: bool,
    /// Qwen-Image-Layered's rotary axes.
    pub use_layer3d_rope: bool,
}

impl Default for TransformerConfig {
    fn default() -> Self {
        TransformerConfig {
            patch_size: 2,
            in_channels: 64,
            out_channels: 16,
            num_layers: 60,
            attention_head_dim: 128,
            num_attention_heads: 24,
            joint_attention_dim: 3584,
            axes_dims_rope: [16, 56, 56],
            guidance_embeds: false,
            zero_cond_t: false,
            use_additional_t_cond: false,
            use_layer3d_rope: false,
        }
    }
}

impl TransformerConfig {
    /// Reads `transformer/config.json`.
    ///
    /// # Errors
    /// The file is missing, or has unsupported values.
    pub fn load(checkpoint: &Checkpoint) -> Result<Self, LoadError> {
        let file = ConfigFile("transformer/config.json");
        checkpoint.require_class(&file, "QwenImageTransformer2DModel")?;
        let config: Self = checkpoint.json(file.0)?;
        for (key, number, range) in [
            ("num_layers", config.num_layers, LAYERS),
            ("attention_head_dim", config.attention_head_dim, HEAD_DIMS),
            ("num_attention_heads", config.num_attention_heads, HEADS),
            ("joint_attention_dim", config.joint_attention_dim, WIDTHS),
            ("in_channels", config.in_channels, 4..=1 << 12),
            ("out_channels", config.out_channels, 1..=1 << 10),
        ] {
            file.within(key, number, range)?;
        }
        if config.patch_size != 2 || config.in_channels != 4 * config.out_channels {
            let given = format!(
                "{} with {} channels in and {} out",
                config.patch_size, config.in_channels, config.out_channels
            );
            return Err(file.refusal("patch_size", "be 2, with in_channels four times out_channels", given));
        }
        let axes = config.axes_dims_rope;
        let even = axes.iter().all(|dim| dim % 2 == 0 && (2..=*HEAD_DIMS.end()).contains(dim));
        file.require(even, "axes_dims_rope", "be even and at least 2", axes)?;
        let whole_head = axes.iter().sum::<usize>() == config.attention_head_dim;
        file.require(whole_head, "axes_dims_rope", "sum to attention_head_dim", axes)?;
        for (key, set) in [
            ("guidance_embeds", config.guidance_embeds),
            ("use_additional_t_cond", config.use_additional_t_cond),
            ("use_layer3d_rope", config.use_layer3d_rope),
        ] {
            file.require(!set, key, "be false", true)?;
        }
        Ok(config)
    }

    /// Refuses a text encoder or VAE whose width does not match the transformer.
    ///
    /// # Errors
    /// One of the widths does not match.
    pub(super) fn check_neighbours(&self, hidden_size: usize, vae: &VaeConfig) -> Result<(), LoadError> {
        let file = ConfigFile("transformer/config.json");
        if self.joint_attention_dim != hidden_size {
            let bound = format!("be the text encoder's hidden_size, {hidden_size}");
            return Err(file.refusal("joint_attention_dim", bound, self.joint_attention_dim));
        }
        if self.out_channels != vae.z_dim {
            return Err(file.refusal("out_channels", format!("be the VAE's z_dim, {}", vae.z_dim), self.out_channels));
        }
        Ok(())
    }

    /// Returns the width of both streams.
    pub fn dim(&self) -> usize {
        self.attention_head_dim * self.num_attention_heads
    }
}

/// `vae/config.json` of an `AutoencoderKLQwenImage`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct VaeConfig {
    /// Channels at full resolution.
    pub base_dim: usize,
    /// Number of latent channels.
    pub z_dim: usize,
    /// Channels of each resolution, as multiples of `base_dim`.
    pub dim_mult: Vec<usize>,
    /// Residual blocks per resolution; the decoder has one more.
    pub num_res_blocks: usize,
    /// Mean of each latent channel.
    pub latents_mean: Vec<f32>,
    /// Standard deviation of each latent channel.
    pub latents_std: Vec<f32>,
    /// Scales at which the encoder has attention. Only an empty list is supported, as in Qwen-Image.
    #[serde(default)]
    pub attn_scales: Vec<f32>,
    /// Channels of a picture; 3 is RGB.
    #[serde(default = "rgb")]
    pub input_channels: usize,
}

fn rgb() -> usize {
    3
}

impl VaeConfig {
    /// Reads `vae/config.json`.
    ///
    /// # Errors
    /// The file is missing, or has unsupported values.
    pub fn load(checkpoint: &Checkpoint) -> Result<Self, LoadError> {
        let file = ConfigFile("vae/config.json");
        checkpoint.require_class(&file, "AutoencoderKLQwenImage")?;
        let config: Self = checkpoint.json(file.0)?;
        file.require(config.input_channels == 3, "input_channels", "be 3", config.input_channels)?;
        file.within("base_dim", config.base_dim, 2..=1 << 12)?;
        file.within("z_dim", config.z_dim, 1..=1 << 10)?;
        file.within("num_res_blocks", config.num_res_blocks, 1..=100)?;
        let shrinks = config.dim_mult.len() == 4;
        file.require(shrinks, "dim_mult", "have 4 entries: the VAE shrinks 8 times", &config.dim_mult)?;
        let halved =
            config.dim_mult.iter().all(|mult| (1..=64).contains(mult) && (mult * config.base_dim).is_multiple_of(2));
        file.require(halved, "dim_mult", "be between 1 and 64, and make even widths of base_dim", &config.dim_mult)?;
        file.require(config.attn_scales.is_empty(), "attn_scales", "be empty", &config.attn_scales)?;
        for (key, list, range) in
            [("latents_mean", &config.latents_mean, -1e6..=1e6), ("latents_std", &config.latents_std, 1e-6..=1e6)]
        {
            if list.len() != config.z_dim {
                return Err(file.refusal(key, format!("have z_dim = {} entries", config.z_dim), list.len()));
            }
            for number in list {
                file.within(key, *number, range.clone())?;
            }
        }
        Ok(config)
    }
}
