//! Configuration of a FLUX.2 transformer, from its `config.json`.

use serde::Deserialize;

use crate::bounds::{ConfigFile, EPSILONS, HEAD_DIMS, HEADS, LAYERS, ROPE_THETAS, WIDTHS};
use crate::checkpoint::Checkpoint;
use crate::error::LoadError;

/// `transformer/config.json` of a `Flux2Transformer2DModel`. The defaults are the class's own, those of FLUX.2-dev.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default)]
pub struct TransformerConfig {
    /// Side of a patch of the packed latents; only 1 is supported.
    pub patch_size: usize,
    /// Channels of a packed token.
    pub in_channels: usize,
    /// Channels of the prediction, if they differ from `in_channels`.
    pub out_channels: Option<usize>,
    /// Number of dual-stream blocks.
    pub num_layers: usize,
    /// Number of single-stream blocks after them.
    pub num_single_layers: usize,
    /// Width of a head.
    pub attention_head_dim: usize,
    /// Number of heads.
    pub num_attention_heads: usize,
    /// Width of the text stream: the text encoder's used hidden states, concatenated.
    pub joint_attention_dim: usize,
    /// Channels of a noise level's sinusoidal embedding.
    pub timestep_guidance_channels: usize,
    /// Inner width of a feed-forward network, as a multiple of the streams' width.
    pub mlp_ratio: f64,
    /// Rotary channels of time, row, column and text position; they sum to the head's width.
    pub axes_dims_rope: Vec<usize>,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Epsilon of every norm.
    pub eps: f64,
    /// Whether the network takes a distilled guidance scale.
    pub guidance_embeds: bool,
}

impl Default for TransformerConfig {
    fn default() -> Self {
        TransformerConfig {
            patch_size: 1,
            in_channels: 128,
            out_channels: None,
            num_layers: 8,
            num_single_layers: 48,
            attention_head_dim: 128,
            num_attention_heads: 48,
            joint_attention_dim: 15360,
            timestep_guidance_channels: 256,
            mlp_ratio: 3.0,
            axes_dims_rope: vec![32; 4],
            rope_theta: 2000.0,
            eps: 1e-6,
            guidance_embeds: true,
        }
    }
}

const FILE: ConfigFile<'_> = ConfigFile("transformer/config.json");

impl TransformerConfig {
    /// Reads `transformer/config.json`.
    ///
    /// # Errors
    /// The file is missing, or has unsupported values.
    pub fn load(checkpoint: &Checkpoint) -> Result<Self, LoadError> {
        checkpoint.require_class(&FILE, "Flux2Transformer2DModel")?;
        let config: Self = checkpoint.json(FILE.0)?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), LoadError> {
        FILE.require(self.patch_size == 1, "patch_size", "be 1", self.patch_size)?;
        for (key, number, range) in [
            ("in_channels", self.in_channels, 1..=1 << 12),
            ("num_layers", self.num_layers, LAYERS),
            ("num_single_layers", self.num_single_layers, LAYERS),
            ("attention_head_dim", self.attention_head_dim, HEAD_DIMS),
            ("num_attention_heads", self.num_attention_heads, HEADS),
            ("joint_attention_dim", self.joint_attention_dim, WIDTHS),
            ("timestep_guidance_channels", self.timestep_guidance_channels, 2..=1 << 12),
        ] {
            FILE.within(key, number, range)?;
        }
        if self.out_channels.is_some_and(|channels| channels != self.in_channels) {
            let given = format!("{:?}, {} in", self.out_channels, self.in_channels);
            return Err(FILE.refusal("out_channels", "be null or in_channels", given));
        }
        let axes = &self.axes_dims_rope;
        let even = axes.len() == 4 && axes.iter().all(|dim| dim % 2 == 0 && *dim <= *HEAD_DIMS.end());
        FILE.require(even, "axes_dims_rope", "have 4 even entries", axes)?;
        let whole_head = axes.iter().sum::<usize>() == self.attention_head_dim;
        FILE.require(whole_head, "axes_dims_rope", "sum to attention_head_dim", axes)?;
        let channels = self.timestep_guidance_channels;
        FILE.require(channels.is_multiple_of(2), "timestep_guidance_channels", "be even", channels)?;
        FILE.within("mlp_ratio", self.mlp_ratio, 0.01..=64.0)?;
        FILE.within("rope_theta", self.rope_theta, ROPE_THETAS)?;
        FILE.within("eps", self.eps, EPSILONS)?;
        Ok(())
    }

    /// Refuses a text encoder or VAE whose width does not match the transformer.
    ///
    /// # Errors
    /// One of the widths does not match.
    pub(super) fn check_neighbours(&self, text_width: usize, latent_channels: usize) -> Result<(), LoadError> {
        if self.joint_attention_dim != text_width {
            let bound = format!("be the width of the text encoder's states side by side, {text_width}");
            return Err(FILE.refusal("joint_attention_dim", bound, self.joint_attention_dim));
        }
        if self.in_channels != 4 * latent_channels {
            let bound = format!("be four times the VAE's latent_channels, {}", 4 * latent_channels);
            return Err(FILE.refusal("in_channels", bound, self.in_channels));
        }
        Ok(())
    }

    /// Returns the width of both streams.
    pub fn dim(&self) -> usize {
        self.attention_head_dim * self.num_attention_heads
    }

    /// Returns the inner width of a feed-forward network.
    pub fn mlp_hidden_dim(&self) -> usize {
        (self.dim() as f64 * self.mlp_ratio) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the message that refuses a change of the defaults, empty if it is accepted.
    fn refusal(change: impl FnOnce(&mut TransformerConfig)) -> String {
        let mut config = TransformerConfig::default();
        change(&mut config);
        config.check().map_or_else(|err| err.to_string(), |()| String::new())
    }

    #[test]
    fn flux2_dev_is_the_default() {
        let config: TransformerConfig = serde_json::from_str("{}").unwrap();
        assert_eq!((config.dim(), config.mlp_hidden_dim()), (6144, 18432));
        assert_eq!(refusal(|_| ()), "");
    }

    #[test]
    fn flux2_refuses_by_key_what_is_not_built() {
        let say = |key, must, given| format!("`transformer/config.json`: `{key}` must {must}. Given: {given}");
        for (change, message) in [
            ((|c| c.patch_size = 2) as fn(&mut TransformerConfig), say("patch_size", "be 1", "2")),
            (|c| c.out_channels = Some(64), say("out_channels", "be null or in_channels", "Some(64), 128 in")),
            (|c| c.axes_dims_rope = vec![64; 2], say("axes_dims_rope", "have 4 even entries", "[64, 64]")),
            (|c| c.axes_dims_rope[0] = 30, say("axes_dims_rope", "sum to attention_head_dim", "[30, 32, 32, 32]")),
            (|c| c.timestep_guidance_channels = 7, say("timestep_guidance_channels", "be even", "7")),
            (|c| c.num_layers = 0, say("num_layers", "be between 1 and 1000", "0")),
            (|c| c.num_attention_heads = 9999, say("num_attention_heads", "be between 1 and 1024", "9999")),
            (|c| c.mlp_ratio = -1.0, say("mlp_ratio", "be between 0.01 and 64", "-1")),
            (|c| c.rope_theta = f64::NAN, say("rope_theta", "be between 1 and 1000000000", "NaN")),
        ] {
            assert_eq!(refusal(change), message);
        }
    }
}
