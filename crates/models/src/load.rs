//! Loading a checkpoint into a pipeline.

use crate::checkpoint::Checkpoint;
use crate::error::LoadError;
use crate::families::family_of;
use crate::options::{LoadOptions, Progress};
use crate::pipeline::AnyPipeline;
use crate::placement::ModelBytes;

/// Loads the checkpoint's pipeline, whichever supported class it has.
///
/// # Errors
/// A file or tensor is missing or wrong; the error names the first one found.
pub fn load(checkpoint: &Checkpoint, options: &LoadOptions, progress: Progress<'_>) -> Result<AnyPipeline, LoadError> {
    (family_of(checkpoint)?.load)(checkpoint, options, progress)
}

/// Returns the bytes of the checkpoint's components in memory, independent of their placement. Loads nothing.
///
/// # Errors
/// A file is missing or damaged, or a configuration is not supported.
pub fn model_bytes(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<ModelBytes, LoadError> {
    (family_of(checkpoint)?.bytes)(checkpoint, options)
}
