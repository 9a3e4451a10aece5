//! Configuration of the vision tower, from `vision_config` of `text_encoder/config.json`.

use std::ops::RangeInclusive;

use serde::Deserialize;

use crate::bounds::{ConfigFile, HEADS, LAYERS, ROPE_THETAS, WIDTHS};
use crate::checkpoint::Checkpoint;
use crate::error::LoadError;
use crate::flops::Flops;

/// Side of a patch, in pixels.
pub(super) const PATCH_SIZES: RangeInclusive<usize> = 1..=64;
/// Frames per patch.
pub(super) const FRAMES: RangeInclusive<usize> = 1..=16;
/// Side of a merged block, in patches.
pub(super) const MERGE_SIZES: RangeInclusive<usize> = 1..=16;

/// Shape of the vision tower.
#[derive(Clone, Debug, PartialEq)]
pub struct VisionConfig {
    /// Number of blocks.
    pub depth: usize,
    /// Width of a patch's hidden state.
    pub hidden_size: usize,
    /// Inner width of the SwiGLU.
    pub intermediate_size: usize,
    /// Number of attention heads.
    pub num_heads: usize,
    /// Width of the tokens that the language model receives.
    pub out_hidden_size: usize,
    /// Colours per pixel.
    pub in_channels: usize,
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// Frames per patch; a picture is repeated this often.
    pub temporal_patch_size: usize,
    /// Side of the block of patches that becomes one token of the language model, in patches.
    pub spatial_merge_size: usize,
    /// Side of a window, in pixels.
    pub window_size: usize,
    /// Indices of the blocks that attend over the whole picture.
    pub fullatt_block_indexes: Vec<usize>,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
}

#[derive(Deserialize)]
struct File {
    vision_config: Option<Fields>,
}

/// The fields with their alternative names.
#[derive(Deserialize)]
struct Fields {
    #[serde(alias = "num_hidden_layers")]
    depth: Option<usize>,
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    #[serde(alias = "num_attention_heads")]
    num_heads: Option<usize>,
    out_hidden_size: Option<usize>,
    #[serde(alias = "in_chans")]
    in_channels: Option<usize>,
    patch_size: Option<usize>,
    temporal_patch_size: Option<usize>,
    spatial_merge_size: Option<usize>,
    window_size: Option<usize>,
    fullatt_block_indexes: Option<Vec<usize>>,
    rope_parameters: Option<Rope>,
}

#[derive(Deserialize)]
struct Rope {
    rope_theta: Option<f64>,
}

impl VisionConfig {
    /// Reads `<component>/config.json`. Missing values have transformers' defaults.
    ///
    /// # Errors
    /// The file or a required value is missing, or the values do not fit together.
    pub fn load(checkpoint: &Checkpoint, component: &str) -> Result<Self, LoadError> {
        let name = format!("{component}/config.json");
        let file = ConfigFile(&name);
        let Some(fields) = checkpoint.json::<File>(&name)?.vision_config else {
            return Err(file.refusal("vision_config", "be present for a model that sees pictures", "nothing"));
        };
        let need = |key, value, range| file.needed(key, value, range);
        let theta = fields.rope_parameters.and_then(|rope| rope.rope_theta).unwrap_or(1e4);
        let config = VisionConfig {
            depth: need("depth", fields.depth, LAYERS)?,
            hidden_size: need("hidden_size", fields.hidden_size, WIDTHS)?,
            intermediate_size: need("intermediate_size", fields.intermediate_size, WIDTHS)?,
            num_heads: need("num_heads", fields.num_heads, HEADS)?,
            out_hidden_size: need("out_hidden_size", fields.out_hidden_size, WIDTHS)?,
            in_channels: need("in_channels", fields.in_channels.or(Some(3)), 3..=3)?,
            patch_size: need("patch_size", fields.patch_size.or(Some(14)), PATCH_SIZES)?,
            temporal_patch_size: need("temporal_patch_size", fields.temporal_patch_size.or(Some(2)), FRAMES)?,
            spatial_merge_size: need("spatial_merge_size", fields.spatial_merge_size.or(Some(2)), MERGE_SIZES)?,
            window_size: need("window_size", fields.window_size.or(Some(112)), 1..=1 << 14)?,
            fullatt_block_indexes: fields.fullatt_block_indexes.unwrap_or_else(|| vec![7, 15, 23, 31]),
            rope_theta: file.within("rope_theta", theta, ROPE_THETAS)?,
        };
        if !config.hidden_size.is_multiple_of(4 * config.num_heads) {
            let bound = format!("divide hidden_size = {} into heads of a multiple of 4 features", config.hidden_size);
            return Err(file.refusal("num_heads", bound, config.num_heads));
        }
        if config.window_tokens() == 0 {
            let bound = format!("be at least {} pixels, one token", config.patch_size * config.spatial_merge_size);
            return Err(file.refusal("window_size", bound, config.window_size));
        }
        Ok(config)
    }

    /// Returns the numbers in a patch: colours, frames, rows, columns.
    pub fn patch_len(&self) -> usize {
        self.in_channels * self.temporal_patch_size * self.patch_size * self.patch_size
    }

    /// Returns the number of patches that become one token of the language model.
    pub fn merge_unit(&self) -> usize {
        self.spatial_merge_size * self.spatial_merge_size
    }

    /// Returns the tower's operations, by the number of patches of a picture.
    pub fn flops(&self) -> Flops {
        let (width, unit) = (self.hidden_size, self.merge_unit());
        let layers = Flops::weights(width * (4 * width + 3 * self.intermediate_size)) * self.depth;
        let whole = self.fullatt_block_indexes.iter().filter(|&&block| block < self.depth).count();
        let window = self.window_tokens() * self.window_tokens() * unit;
        let attention =
            Flops::attention(width) * whole + Flops::windowed_attention(width, window) * (self.depth - whole);
        // Each token of the language model is merged from `unit` patches.
        let merger = Flops::weights(unit * width * width + width * self.out_hidden_size);
        Flops::weights(self.patch_len() * width) + layers + attention + merger
    }

    /// Returns the side of a window, in tokens.
    pub fn window_tokens(&self) -> usize {
        self.window_size / self.spatial_merge_size / self.patch_size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(json: &'static str) -> Result<VisionConfig, LoadError> {
        VisionConfig::load(&Checkpoint::Embedded(vec![("text_encoder/config.json", json.as_bytes())]), "text_encoder")
    }

    #[test]
    fn the_published_names_and_the_new_ones_say_the_same() {
        let old = load(
            r#"{"vision_config": {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
                "in_chans": 3, "out_hidden_size": 3584, "patch_size": 14, "spatial_merge_size": 2,
                "spatial_patch_size": 14, "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31],
                "tokens_per_second": 2, "temporal_patch_size": 2}}"#,
        )
        .unwrap();
        let new = load(
            r#"{"vision_config": {"num_hidden_layers": 32, "hidden_size": 1280, "intermediate_size": 3420,
                "num_attention_heads": 16, "in_channels": 3, "out_hidden_size": 3584, "model_type": "qwen2_5_vl_vision",
                "rope_parameters": {"rope_theta": 10000.0, "rope_type": "axial"}}}"#,
        )
        .unwrap();
        assert_eq!(old, new);
        assert_eq!((old.patch_len(), old.merge_unit(), old.window_tokens()), (1176, 4, 4));
        // 0.63 billion weights, and four of 32 blocks with attention over the whole picture.
        let flops = old.flops();
        assert!((1.2e9..1.4e9).contains(&flops.linear), "{}", flops.linear);
        assert_eq!(flops.quadratic, 4.0 * 4.0 * 1280.0);
    }

    #[test]
    fn what_is_missing_is_named() {
        for (json, message) in [
            ("{}", "`vision_config` must be present for a model that sees pictures. Given: nothing"),
            (r#"{"vision_config": {"depth": 0}}"#, "`depth` must be between 1 and 1000. Given: 0"),
        ] {
            assert_eq!(load(json).unwrap_err().to_string(), format!("`text_encoder/config.json`: {message}"));
        }
    }
}
