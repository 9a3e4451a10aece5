//! Configuration of a FLUX.2 VAE, from its `config.json`.

use serde::Deserialize;

use crate::bounds::{ConfigFile, EPSILONS, WIDTHS};
use crate::checkpoint::Checkpoint;
use crate::error::LoadError;
use crate::tiling::Tiling;

/// `vae/config.json` of an `AutoencoderKLFlux2`. The defaults are the class's own.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default)]
pub struct VaeConfig {
    /// Channels of an input picture; 3 is RGB.
    pub in_channels: usize,
    /// Channels of an output picture.
    pub out_channels: usize,
    /// Block types of the encoder's resolutions.
    pub down_block_types: Vec<String>,
    /// Block types of the decoder's resolutions.
    pub up_block_types: Vec<String>,
    /// Channels of each resolution, starting with the highest.
    pub block_out_channels: Vec<usize>,
    /// Channels of the decoder's resolutions, if they differ.
    pub decoder_block_out_channels: Option<Vec<usize>>,
    /// Residual blocks per resolution; the decoder has one more.
    pub layers_per_block: usize,
    /// Activation function between the layers.
    pub act_fn: String,
    /// Number of latent channels.
    pub latent_channels: usize,
    /// Side of the training pictures and of a tile, in pixels.
    pub sample_size: usize,
    /// Number of groups in every group norm.
    pub norm_num_groups: usize,
    /// Whether the encoder ends with a 1x1 convolution.
    pub use_quant_conv: bool,
    /// Whether the decoder begins with a 1x1 convolution.
    pub use_post_quant_conv: bool,
    /// Whether there is an attention at the lowest resolution.
    pub mid_block_add_attention: bool,
    /// Epsilon of the token normalisation.
    pub batch_norm_eps: f64,
    /// Latents per token, in height and width.
    pub patch_size: [usize; 2],
}

impl Default for VaeConfig {
    fn default() -> Self {
        VaeConfig {
            in_channels: 3,
            out_channels: 3,
            down_block_types: vec![DOWN_BLOCK.into(); RESOLUTIONS],
            up_block_types: vec![UP_BLOCK.into(); RESOLUTIONS],
            block_out_channels: vec![128, 256, 512, 512],
            decoder_block_out_channels: None,
            layers_per_block: 2,
            act_fn: "silu".into(),
            latent_channels: 32,
            sample_size: 1024,
            norm_num_groups: 32,
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
            batch_norm_eps: 1e-4,
            patch_size: [2, 2],
        }
    }
}

const FILE: ConfigFile<'_> = ConfigFile("vae/config.json");
const DOWN_BLOCK: &str = "DownEncoderBlock2D";
const UP_BLOCK: &str = "UpDecoderBlock2D";
/// Each resolution but the last halves the sides, so the VAE downscales 8 times.
const RESOLUTIONS: usize = 4;

impl VaeConfig {
    /// Reads `vae/config.json`.
    ///
    /// # Errors
    /// The file is missing, or has unsupported values.
    pub fn load(checkpoint: &Checkpoint) -> Result<Self, LoadError> {
        checkpoint.require_class(&FILE, "AutoencoderKLFlux2")?;
        let config: Self = checkpoint.json(FILE.0)?;
        config.check()?;
        Ok(config)
    }

    /// Returns the channels of the decoder's resolutions, starting with the highest.
    pub fn decoder_widths(&self) -> &[usize] {
        self.decoder_block_out_channels.as_deref().unwrap_or(&self.block_out_channels)
    }

    /// Returns the tiling of a large picture. Tiles overlap by a quarter, as in `AutoencoderKLFlux2`.
    pub fn tiling(&self) -> Tiling {
        let side = self.sample_size / 8;
        Tiling { side, stride: side - side / 4 }
    }

    fn check(&self) -> Result<(), LoadError> {
        for (key, channels) in [("in_channels", self.in_channels), ("out_channels", self.out_channels)] {
            FILE.require(channels == 3, key, "be 3", channels)?;
        }
        for (key, kinds, kind) in [
            ("down_block_types", &self.down_block_types, DOWN_BLOCK),
            ("up_block_types", &self.up_block_types, UP_BLOCK),
        ] {
            let as_built = kinds.len() == RESOLUTIONS && kinds.iter().all(|name| name == kind);
            FILE.require(as_built, key, &format!("be {RESOLUTIONS} times {kind}"), kinds)?;
        }
        self.check_widths()?;
        FILE.within("layers_per_block", self.layers_per_block, 1..=100)?;
        FILE.require(self.act_fn == "silu", "act_fn", "be silu", &self.act_fn)?;
        FILE.within("latent_channels", self.latent_channels, 1..=1 << 10)?;
        let quarters = self.sample_size.is_multiple_of(32) && (32..=1 << 14).contains(&self.sample_size);
        FILE.require(quarters, "sample_size", "be a multiple of 32 up to 16384", self.sample_size)?;
        for (key, set) in [
            ("use_quant_conv", self.use_quant_conv),
            ("use_post_quant_conv", self.use_post_quant_conv),
            ("mid_block_add_attention", self.mid_block_add_attention),
        ] {
            FILE.require(set, key, "be true", set)?;
        }
        FILE.within("batch_norm_eps", self.batch_norm_eps, EPSILONS)?;
        FILE.require(self.patch_size == [2, 2], "patch_size", "be [2, 2]", self.patch_size)
    }

    fn check_widths(&self) -> Result<(), LoadError> {
        let decoder = self.decoder_block_out_channels.as_ref();
        let lists = [("block_out_channels", Some(&self.block_out_channels)), ("decoder_block_out_channels", decoder)];
        for (key, widths) in lists.into_iter().filter_map(|(key, widths)| Some((key, widths?))) {
            let bound = format!("have {RESOLUTIONS} entries: the VAE shrinks 8 times");
            FILE.require(widths.len() == RESOLUTIONS, key, &bound, widths)?;
            let groups = self.norm_num_groups;
            let fits = |width: usize| WIDTHS.contains(&width) && width.is_multiple_of(groups);
            let divided = groups > 0 && widths.iter().all(|&width| fits(width));
            FILE.require(divided, key, &format!("be multiples of norm_num_groups = {groups}"), widths)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the message that refuses a change of the defaults, empty if it is accepted.
    fn refusal(change: impl FnOnce(&mut VaeConfig)) -> String {
        let mut config = VaeConfig::default();
        change(&mut config);
        config.check().map_or_else(|err| err.to_string(), |()| String::new())
    }

    #[test]
    fn flux2_vae_is_the_default() {
        assert_eq!(serde_json::from_str::<VaeConfig>("{}").unwrap(), VaeConfig::default());
        assert_eq!(refusal(|_| ()), "");
        assert_eq!(refusal(|config| config.decoder_block_out_channels = Some(vec![96, 192, 384, 384])), "");
    }

    #[test]
    fn flux2_vae_refuses_by_key_what_is_not_built() {
        let say = |key, must, given| format!("`vae/config.json`: `{key}` must {must}. Given: {given}");
        for (change, message) in [
            ((|c| c.in_channels = 4) as fn(&mut VaeConfig), say("in_channels", "be 3", "4")),
            (|c| c.act_fn = "relu".into(), say("act_fn", "be silu", "\"relu\"")),
            (|c| c.use_quant_conv = false, say("use_quant_conv", "be true", "false")),
            (|c| c.mid_block_add_attention = false, say("mid_block_add_attention", "be true", "false")),
            (|c| c.batch_norm_eps = f64::NAN, say("batch_norm_eps", "be between 0.000000000001 and 1", "NaN")),
            (|c| c.patch_size = [1, 1], say("patch_size", "be [2, 2]", "[1, 1]")),
            (|c| c.sample_size = 1000, say("sample_size", "be a multiple of 32 up to 16384", "1000")),
            (
                |c| c.up_block_types[1] = "AttnUpDecoderBlock2D".into(),
                say(
                    "up_block_types",
                    "be 4 times UpDecoderBlock2D",
                    r#"["UpDecoderBlock2D", "AttnUpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"]"#,
                ),
            ),
            (
                |c| c.decoder_block_out_channels = Some(vec![128, 256, 512]),
                say("decoder_block_out_channels", "have 4 entries: the VAE shrinks 8 times", "[128, 256, 512]"),
            ),
            (
                |c| c.norm_num_groups = 48,
                say("block_out_channels", "be multiples of norm_num_groups = 48", "[128, 256, 512, 512]"),
            ),
        ] {
            assert_eq!(refusal(change), message);
        }
    }
}
