//! FLUX.2-klein: text to image, and editing, by a transformer of dual-stream and single-stream blocks.
//!
//! Reference: diffusers' `Flux2KleinPipeline`,
//! <https://github.com/huggingface/diffusers/blob/v0.37.0/src/diffusers/pipelines/flux2/pipeline_flux2_klein.py>

mod prompt;

pub use prompt::{MAX_SEQUENCE_LENGTH, PromptEncoder};
