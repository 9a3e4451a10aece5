//! The parameters of the sampling loop.

use crate::{Guidance, ImageSize, Sampler};
use serde::{Deserialize, Serialize};

/// The parameters of the sampling loop.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SamplingParams {
    /// The generated size, any number of pixels within the limits: the picture's own size, unless it is
    /// [fitted](crate::ImageRequest::fit).
    pub size: ImageSize,
    /// Denoising steps, 1..=1000.
    pub num_inference_steps: usize,
    /// The sampling method.
    pub sampler: Sampler,
    /// How strongly the prompt counts.
    pub guidance: Guidance,
    /// The seed of the noise.
    pub seed: u64,
}

impl SamplingParams {
    /// Evaluations of the transformer. A [`Pipeline`](crate::Pipeline) and its scheduler call these the steps of the
    /// request.
    pub fn num_evaluations(&self) -> usize {
        self.sampler.num_evaluations(self.num_inference_steps)
    }
}
