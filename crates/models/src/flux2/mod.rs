//! FLUX.2-klein: text to image and editing, with dual-stream blocks followed by single-stream blocks.
//!
//! Reference: diffusers' `Flux2KleinPipeline`,
//! <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/pipelines/flux2/pipeline_flux2_klein.py>
//!
//! # Architecture
//! The prompt goes through 27 layers of Qwen3. Three of its hidden states, concatenated and with the padding, are the
//! text stream. [`Transformer`] predicts the velocity. [`Vae`] is a plain KL VAE, whose latents are normalised by the
//! running statistics of a batch norm.

mod block;
mod config;
mod family;
pub(crate) mod flops;
mod modulation;
mod prompt;
mod published;
mod rope;
mod single_block;
mod transformer;
mod vae;

pub use block::{Attention, Block, FeedForward};
pub use config::TransformerConfig;
pub use family::Flux2Klein;
pub use modulation::Modulation;
pub use prompt::{MAX_SEQUENCE_LENGTH, PromptEncoder};
pub use rope::RopeTables;
pub use single_block::SingleBlock;
pub use transformer::{Conditioning, Transformer};
pub use vae::{Vae, VaeConfig, VaeDecoder, VaeEncoder};

use crate::model_family::ModelFamily;
use crate::pipeline::DiffusionPipeline;

/// The FLUX.2-klein family: text to image and editing.
pub(crate) const FAMILY: ModelFamily = ModelFamily {
    name: "FLUX.2-klein",
    classes: &["Flux2KleinPipeline"],
    seeing_classes: &[],
    models: published::MODELS,
    bytes: Flux2Klein::bytes,
    load: |checkpoint, options, progress| {
        let digest = options.digest.clone().map_or_else(|| checkpoint.digest("transformer"), Ok)?;
        let family = Flux2Klein::load(checkpoint, options, progress)?;
        Ok(Box::new(DiffusionPipeline::new(family, options).with_digest(digest)))
    },
};
