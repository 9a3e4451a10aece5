//! The numbers of a Qwen-Image checkpoint, from its `config.json` files.

use serde::Deserialize;

use crate::checkpoint::Checkpoint;
use crate::error::LoadError;

/// `transformer/config.json` of a `QwenImageTransformer2DModel`; defaults are the class's own.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default)]
pub struct TransformerConfig {
    /// Side of a packed patch; 2 is what the packing here does.
    pub patch_size: usize,
    /// Channels of a packed token.
    pub in_channels: usize,
    /// Latent channels of the prediction, before packing.
    pub out_channels: usize,
    /// Dual-stream blocks.
    pub num_layers: usize,
    /// Width of a head.
    pub attention_head_dim: usize,
    /// Heads.
    pub num_attention_heads: usize,
    /// Width of the text encoder's hidden states.
    pub joint_attention_dim: usize,
    /// Rotary channels of frame, row and column; they sum to the head's width.
    pub axes_dims_rope: [usize; 3],
    /// Whether the network takes a distilled guidance scale.
    pub guidance_embeds: bool,
    /// Whether references are modulated as at time 0, as in Edit-2511.
    pub zero_cond_t: bool,
    /// Layered's extra time condition.
    pub use_additional_t_cond: bool,
    /// Layered's rotary axes.
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
    /// The file is missing, or asks for what is not built.
    pub fn load(checkpoint: &Checkpoint) -> Result<Self, LoadError> {
        let file = "transformer/config.json";
        let config: Self = checkpoint.json(file)?;
        let refuse = |key, bound: &str, given: String| {
            Err(LoadError::Config { file: file.into(), key, bound: bound.into(), given })
        };
        if config.patch_size != 2 || config.in_channels != 4 * config.out_channels {
            let given = format!(
                "{} with {} channels in and {} out",
                config.patch_size, config.in_channels, config.out_channels
            );
            return refuse("patch_size", "be 2, with in_channels four times out_channels", given);
        }
        if config.axes_dims_rope.iter().sum::<usize>() != config.attention_head_dim {
            return refuse("axes_dims_rope", "sum to attention_head_dim", format!("{:?}", config.axes_dims_rope));
        }
        for (key, set) in [
            ("guidance_embeds", config.guidance_embeds),
            ("use_additional_t_cond", config.use_additional_t_cond),
            ("use_layer3d_rope", config.use_layer3d_rope),
        ] {
            if set {
                return refuse(key, "be false", "true".into());
            }
        }
        Ok(config)
    }

    /// Width of both streams.
    pub fn dim(&self) -> usize {
        self.attention_head_dim * self.num_attention_heads
    }
}

/// `vae/config.json` of an `AutoencoderKLQwenImage`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct VaeConfig {
    /// Channels at full resolution.
    pub base_dim: usize,
    /// Latent channels.
    pub z_dim: usize,
    /// Channels of each resolution, as multiples of `base_dim`.
    pub dim_mult: Vec<usize>,
    /// Residual blocks of a resolution; the decoder has one more.
    pub num_res_blocks: usize,
    /// Mean of each latent channel.
    pub latents_mean: Vec<f32>,
    /// Standard deviation of each latent channel.
    pub latents_std: Vec<f32>,
    /// Scales at which the encoder attends; none is what is built, and what Qwen-Image has.
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
    /// The file is missing, or asks for what is not built.
    pub fn load(checkpoint: &Checkpoint) -> Result<Self, LoadError> {
        let file = "vae/config.json";
        let config: Self = checkpoint.json(file)?;
        let refuse =
            |key, bound: String, given: String| Err(LoadError::Config { file: file.into(), key, bound, given });
        if config.input_channels != 3 {
            return refuse("input_channels", "be 3".into(), config.input_channels.to_string());
        }
        if config.dim_mult.len() != 4 {
            return refuse(
                "dim_mult",
                "have 4 entries: the VAE shrinks 8 times".into(),
                format!("{:?}", config.dim_mult),
            );
        }
        if !config.attn_scales.is_empty() {
            return refuse("attn_scales", "be empty".into(), format!("{:?}", config.attn_scales));
        }
        for (key, list) in [("latents_mean", &config.latents_mean), ("latents_std", &config.latents_std)] {
            if list.len() != config.z_dim {
                return refuse(key, format!("have z_dim = {} entries", config.z_dim), list.len().to_string());
            }
        }
        Ok(config)
    }
}
