//! What a loaded model says of itself.

use crate::{ImageSize, Quality};

/// The facts that validation and `/v1/models` need of a loaded model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelCard {
    /// The pipeline class of `model_index.json`, e.g. `QwenImagePipeline`.
    pub class: String,
    /// The size when a request names none.
    pub default_size: ImageSize,
    /// Denoising steps when a request names none.
    pub default_num_inference_steps: usize,
    /// Denoising steps of [`Quality::Low`].
    pub low_num_inference_steps: usize,
    /// Denoising steps of [`Quality::High`].
    pub high_num_inference_steps: usize,
    /// True-CFG scale when a request names none.
    pub default_true_cfg_scale: f64,
    /// The negative prompt when a request names none; `None` leaves guidance off.
    pub default_negative_prompt: Option<String>,
    /// Most pictures that a request may bring to be edited: none where the model makes pictures from
    /// text only.
    pub max_input_images: usize,
    /// Most prompt tokens, the template's own not counted.
    pub max_prompt_tokens: usize,
    /// Transformer blocks of each segment (list of blocks) of the DiT: what a cache configuration is
    /// checked against.
    pub num_blocks: Vec<usize>,
}

impl ModelCard {
    /// Denoising steps of a request of this quality that names none.
    pub fn num_inference_steps(&self, quality: Quality) -> usize {
        match quality {
            Quality::Low => self.low_num_inference_steps,
            Quality::Medium => self.default_num_inference_steps,
            Quality::High => self.high_num_inference_steps,
        }
    }
}
