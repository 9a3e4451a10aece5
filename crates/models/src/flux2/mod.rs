//! FLUX.2: text to image and editing by a transformer of dual-stream, then single-stream blocks.
//!
//! Reference: diffusers' `Flux2KleinPipeline`,
//! <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/pipelines/flux2/pipeline_flux2_klein.py>

mod vae;

pub use vae::{Vae, VaeConfig, VaeDecoder, VaeEncoder, patchify, unpatchify};
