//! What a loaded model says of itself.

use crate::{EditSize, GuidanceKind, ImageSize, InputImageBounds, Quality, Sampler};

/// The facts that validation and `/v1/models` need of a loaded model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelCard {
    /// The pipeline class of `model_index.json`, e.g. `QwenImagePipeline`.
    pub class: String,
    /// The float type that its weights are kept in, e.g. `bf16`.
    pub dtype: &'static str,
    /// The size when a request names none.
    pub default_size: ImageSize,
    /// The sizes that the model makes pictures of words at, where it was made for no others: a picture of another size
    /// is made at the nearest and [fitted](crate::Fit). Empty where the model makes what is asked.
    pub native_sizes: Vec<ImageSize>,
    /// What the model knows to draw, where that is a few things only; empty otherwise. A prompt that names none of them
    /// is drawn [with a warning](crate::known_prompt).
    pub knows: Vec<String>,
    /// Most pixels of one picture, unless the operator says other: [`most_pixels`].
    pub max_pixels: usize,
    /// Denoising steps when a request names none.
    pub default_num_inference_steps: usize,
    /// Denoising steps of [`Quality::Low`].
    pub low_num_inference_steps: usize,
    /// Denoising steps of [`Quality::High`].
    pub high_num_inference_steps: usize,
    /// How a picture gets from noise level to noise level when a request does not say.
    pub default_sampler: Sampler,
    /// The guidance that the model was made for.
    pub guidance: GuidanceKind,
    /// The weight of guidance when a request names none.
    pub default_guidance_scale: f64,
    /// The negative prompt when a request names none; `None` leaves guidance in two passes off.
    pub default_negative_prompt: Option<String>,
    /// Which pictures a request may bring to be edited.
    pub input_images: InputImageBounds,
    /// The size of an edited picture when a request names none.
    pub edit_size: EditSize,
    /// Most prompt tokens, the template's own not counted.
    pub max_prompt_tokens: usize,
    /// Width of the transformer's streams.
    pub dim: usize,
    /// Transformer blocks of each segment (list of blocks) of the DiT: what a cache configuration is
    /// checked against.
    pub num_blocks: Vec<usize>,
}

/// Most pixels of one picture of a model that was made for pictures of `native` size: four times as many.
///
/// The attention of a step takes 16 times as long then. Further out it is the same again, and models repeat what they
/// draw.
pub fn most_pixels(native: ImageSize) -> usize {
    native.pixels().saturating_mul(4)
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
