//! The parameters of a generation.

use diffusion::{ImageSize, InvalidRequest, RequestDraft, Sampler};

use crate::error::Error;
use crate::input::OmniInput;

/// The parameters of a generation, under the guide's names. `None` is the model's default.
#[derive(Clone, Debug, Default)]
pub struct OmniDiffusionSamplingParams {
    /// Denoising steps.
    pub num_inference_steps: Option<i64>,
    /// The sampler of these steps.
    pub sampler: Option<Sampler>,
    /// Height in pixels. Set both `width` and `height`, or neither.
    pub height: Option<usize>,
    /// Width in pixels. Set both `width` and `height`, or neither.
    pub width: Option<usize>,
    /// What the picture should not show.
    pub negative_prompt: Option<String>,
    /// Weight of true classifier-free guidance.
    pub true_cfg_scale: Option<f64>,
    /// Weight of plain guidance, for models made for it (FLUX.2-klein base).
    pub guidance_scale: Option<f64>,
    /// Seed of the first picture; it counts up from picture to picture.
    pub seed: Option<i64>,
    /// Number of pictures.
    pub num_outputs_per_prompt: Option<i64>,
}

impl OmniDiffusionSamplingParams {
    /// The request draft for `input` with these parameters.
    pub(crate) fn draft(self, input: OmniInput) -> Result<RequestDraft, Error> {
        let size = match (self.width, self.height) {
            (None, None) => None,
            (Some(width), Some(height)) if width > 0 && height > 0 => Some(ImageSize { width, height }),
            (width, height) => {
                let side = |side: Option<usize>| side.map_or("nothing".into(), |n| n.to_string());
                let given = format!("width {}, height {}", side(width), side(height));
                return Err(InvalidRequest::new("size", "have a width and a height of at least 1", given).into());
            }
        };
        Ok(RequestDraft {
            prompt: input.prompt,
            input_images: input.pictures.images,
            mask: input.pictures.mask,
            negative_prompt: self.negative_prompt,
            size,
            n: self.num_outputs_per_prompt,
            num_inference_steps: self.num_inference_steps,
            sampler: self.sampler,
            guidance_scale: self.guidance_scale,
            true_cfg_scale: self.true_cfg_scale,
            seed: self.seed,
            ..RequestDraft::default()
        })
    }
}
