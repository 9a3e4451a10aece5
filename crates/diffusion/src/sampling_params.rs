//! The numbers of the sampling loop.

use crate::{Guidance, ImageSize, Sampler};
use serde::{Deserialize, Serialize};

/// The numbers of the sampling loop.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SamplingParams {
    /// The size that is made, any number of pixels within the limits: the picture's own, unless it is
    /// [fitted](crate::ImageRequest::fit).
    pub size: ImageSize,
    /// Denoising steps, 1..=1000.
    pub num_inference_steps: usize,
    /// What takes them.
    pub sampler: Sampler,
    /// How the prompt is made to count.
    pub guidance: Guidance,
    /// The noise's seed.
    pub seed: u64,
}

impl SamplingParams {
    /// Evaluations of the transformer: what a [`Pipeline`](crate::Pipeline) and whoever drives it calls the steps of the
    /// request.
    pub fn num_evaluations(&self) -> usize {
        self.sampler.num_evaluations(self.num_inference_steps)
    }
}
