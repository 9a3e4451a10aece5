//! Stages that end early.

use candle_core::Device;
use diffusion::{Interrupt, PipelineError};
use kernels::{interruptible, is_lost};

/// Runs a stage that ends early once `interrupt` is set. Its half-done result is then replaced by
/// [`PipelineError::Interrupted`]. A model error becomes [`PipelineError::DeviceLost`] if the device no longer works.
pub(crate) fn until_set<R>(
    device: &Device,
    interrupt: &Interrupt,
    stage: impl FnOnce() -> Result<R, PipelineError>,
) -> Result<R, PipelineError> {
    let flag = interrupt.clone();
    match interruptible(move || flag.is_set(), stage) {
        Err(PipelineError::Model(reason)) if is_lost(device) => Err(PipelineError::DeviceLost(reason)),
        _ if interrupt.is_set() => Err(PipelineError::Interrupted),
        result => result,
    }
}
