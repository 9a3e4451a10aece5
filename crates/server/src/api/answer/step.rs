//! A denoising step, as a stream reports it.

use diffusion::StepReport;

/// A step of a picture.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) image_index: usize,
    /// In seconds since 1970.
    pub(crate) created_at: u64,
    pub(crate) report: StepReport,
}
