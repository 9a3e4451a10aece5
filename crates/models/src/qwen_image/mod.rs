//! Qwen-Image: text to image by a dual-stream diffusion transformer.
//!
//! Reference: diffusers' `QwenImagePipeline`,
//! <https://github.com/huggingface/diffusers/blob/v0.37.0/src/diffusers/pipelines/qwenimage/pipeline_qwenimage.py>
//!
//! # Architecture
//! The prompt, in a chat template, goes through Qwen2.5-VL's language model; its last hidden states
//! without the template's first 34 tokens are the text stream. Noise, packed 2x2, is the image stream.
//! [`Transformer`] predicts the velocity from both; [`Vae`] turns latents into pixels.

mod block;
mod config;
mod edit_prompt;
mod family;
mod prompt;
mod rope;
mod transformer;
mod vae;

pub use block::{Attention, Block, FeedForward, Modulation};
pub use config::{TransformerConfig, VaeConfig, flow_match_config};
pub use edit_prompt::{EditPromptEncoder, EditStyle};
pub use family::QwenImage;
pub use prompt::PromptEncoder;
pub use rope::RopeTables;
pub use transformer::{Conditioning, Transformer};
pub use vae::{Vae, VaeDecoder, VaeEncoder};

use crate::families::{ModelFamily, PublishedModel};
use crate::pipeline::DiffusionPipeline;

/// Text to image.
pub(crate) const FAMILY: ModelFamily = ModelFamily {
    name: "Qwen-Image",
    classes: &["QwenImagePipeline"],
    models: MODELS,
    load: |checkpoint, options, progress| {
        Ok(Box::new(DiffusionPipeline::new(QwenImage::load(checkpoint, options, progress)?, options)))
    },
};

const MODELS: &[PublishedModel] = &[];
