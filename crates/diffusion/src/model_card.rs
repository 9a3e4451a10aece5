//! The description of a loaded model.

use crate::{EditSize, GuidanceKind, ImageSize, InputImageBounds, Quality, Sampler};

/// The properties of a loaded model that validation and `/v1/models` need.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelCard {
    /// The pipeline class of `model_index.json`, e.g. `QwenImagePipeline`.
    pub class: String,
    /// The float type of the stored weights, e.g. `bf16`.
    pub dtype: &'static str,
    /// The picture size if a request names none.
    pub default_size: ImageSize,
    /// The only text-to-image sizes that the model was trained for. A picture of another size is generated at the
    /// nearest and [fitted](crate::Fit). Empty if the model generates any size.
    pub native_sizes: Vec<ImageSize>,
    /// The names of the things that the model can draw, if these are few; empty otherwise. A prompt that names none of
    /// them is drawn [with a warning](crate::known_prompt).
    pub knows: Vec<String>,
    /// Maximum pixels of one picture unless the operator sets another limit: [`most_pixels`].
    pub max_pixels: usize,
    /// Denoising steps if a request names none.
    pub default_num_inference_steps: usize,
    /// Denoising steps of [`Quality::Low`].
    pub low_num_inference_steps: usize,
    /// Denoising steps of [`Quality::High`].
    pub high_num_inference_steps: usize,
    /// The sampler if a request names none.
    pub default_sampler: Sampler,
    /// The guidance that the model was trained for.
    pub guidance: GuidanceKind,
    /// The guidance weight if a request names none.
    pub default_guidance_scale: f64,
    /// The negative prompt if a request names none; `None` leaves two-pass guidance off.
    pub default_negative_prompt: Option<String>,
    /// Bounds on the input pictures of a request.
    pub input_images: InputImageBounds,
    /// The rule for an edited picture's size if a request names none.
    pub edit_size: EditSize,
    /// Maximum number of prompt tokens, without those of the template.
    pub max_prompt_tokens: usize,
    /// Width of the transformer's streams.
    pub dim: usize,
    /// Transformer blocks of each segment (list of blocks) of the DiT. Cache configurations are checked against them.
    pub num_blocks: Vec<usize>,
}

/// Maximum pixels of one picture of a model that was trained at `native` size: four times as many.
///
/// The attention of a step takes 16 times as long at that size. Beyond it the cost grows further, and models repeat
/// what they draw.
pub fn most_pixels(native: ImageSize) -> usize {
    native.pixels().saturating_mul(4)
}

impl ModelCard {
    /// Denoising steps for this quality if a request names none.
    pub fn num_inference_steps(&self, quality: Quality) -> usize {
        match quality {
            Quality::Low => self.low_num_inference_steps,
            Quality::Medium => self.default_num_inference_steps,
            Quality::High => self.high_num_inference_steps,
        }
    }
}
