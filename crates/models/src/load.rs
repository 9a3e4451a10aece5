//! From a checkpoint to a pipeline.

use crate::checkpoint::Checkpoint;
use crate::error::LoadError;
use crate::families::family_of;
use crate::options::{LoadOptions, Progress};
use crate::pipeline::AnyPipeline;
use crate::placement::ModelBytes;

/// Loads the checkpoint's pipeline, of whichever supported class it is.
///
/// # Errors
/// The first thing that is missing or wrong, by file and name.
pub fn load(checkpoint: &Checkpoint, options: &LoadOptions, progress: Progress<'_>) -> Result<AnyPipeline, LoadError> {
    (family_of(checkpoint)?.load)(checkpoint, options, progress)
}

/// The bytes of the checkpoint's components as they would be held, whatever of them is kept where; nothing is loaded.
///
/// # Errors
/// A file is missing or damaged, or a configuration is not supported.
pub fn model_bytes(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<ModelBytes, LoadError> {
    (family_of(checkpoint)?.bytes)(checkpoint, options)
}
