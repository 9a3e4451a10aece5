//! The numbers of a Qwen-Image checkpoint, from its `config.json` files.

use diffusion::{FlowMatchConfig, TimeShift};
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

/// `scheduler/scheduler_config.json`, the keys that shape the schedule.
#[derive(Deserialize)]
struct SchedulerFile {
    shift: Option<f64>,
    use_dynamic_shifting: Option<bool>,
    base_shift: Option<f64>,
    max_shift: Option<f64>,
    base_image_seq_len: Option<usize>,
    max_image_seq_len: Option<usize>,
    time_shift_type: Option<String>,
    shift_terminal: Option<f64>,
}

/// Reads `scheduler/scheduler_config.json`.
///
/// # Errors
/// The file is missing, or asks for what is not built.
pub fn flow_match_config(checkpoint: &Checkpoint) -> Result<FlowMatchConfig, LoadError> {
    let name = "scheduler/scheduler_config.json";
    let file: SchedulerFile = checkpoint.json(name)?;
    let default = FlowMatchConfig::default();
    let time_shift = match file.time_shift_type.as_deref() {
        None | Some("exponential") => TimeShift::Exponential,
        Some("linear") => TimeShift::Linear,
        Some(other) => {
            let bound = "be `exponential` or `linear`".into();
            return Err(LoadError::Config { file: name.into(), key: "time_shift_type", bound, given: other.into() });
        }
    };
    Ok(FlowMatchConfig {
        shift: file.shift.unwrap_or(default.shift),
        use_dynamic_shifting: file.use_dynamic_shifting.unwrap_or(default.use_dynamic_shifting),
        base_shift: file.base_shift.unwrap_or(default.base_shift),
        max_shift: file.max_shift.unwrap_or(default.max_shift),
        base_image_seq_len: file.base_image_seq_len.unwrap_or(default.base_image_seq_len),
        max_image_seq_len: file.max_image_seq_len.unwrap_or(default.max_image_seq_len),
        time_shift,
        shift_terminal: file.shift_terminal,
    })
}
