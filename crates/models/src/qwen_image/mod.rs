//! Qwen-Image and Qwen-Image-Edit: text to image and editing, with a dual-stream diffusion transformer.
//!
//! Reference: diffusers' `QwenImagePipeline`,
//! <https://github.com/huggingface/diffusers/blob/v0.37.0/src/diffusers/pipelines/qwenimage/pipeline_qwenimage.py>
//!
//! # Architecture
//! The prompt, in a chat template, goes through Qwen2.5-VL's language model. Its last hidden states without the
//! template's first 34 tokens are the text stream. Noise, packed 2x2, is the image stream. [`Transformer`] predicts the
//! velocity from both; [`Vae`] turns latents into pixels.
//!
//! When editing, Qwen2.5-VL sees the pictures beside the prompt. Their latents follow the tokens of the generated
//! picture.

mod block;
mod card;
mod conditioner;
mod config;
mod edit_prompt;
mod family;
pub(crate) mod flops;
mod prompt;
mod published;
mod rope;
mod transformer;
mod vae;

pub use block::{Attention, Block, FeedForward, Modulation};
pub use conditioner::{Conditioner, Editing};
pub use config::{TransformerConfig, VaeConfig};
pub use edit_prompt::{EditPromptEncoder, EditStyle};
pub use family::QwenImage;
pub use prompt::PromptEncoder;
pub use rope::RopeTables;
pub use transformer::{Conditioning, Transformer};
pub use vae::{Vae, VaeDecoder, VaeEncoder};

use crate::model_family::ModelFamily;
use crate::pipeline::DiffusionPipeline;

/// The Qwen-Image family: text to image and editing.
pub(crate) const FAMILY: ModelFamily = ModelFamily {
    name: "Qwen-Image",
    classes: &[family::CLASSES[0].0, family::CLASSES[1].0, family::CLASSES[2].0],
    seeing_classes: &[family::CLASSES[1].0, family::CLASSES[2].0],
    models: published::MODELS,
    bytes: QwenImage::bytes,
    load: |checkpoint, options, progress| {
        let digest = options.digest.clone().map_or_else(|| checkpoint.digest("transformer"), Ok)?;
        let family = QwenImage::load(checkpoint, options, progress)?;
        Ok(Box::new(DiffusionPipeline::new(family, options).with_digest(digest)))
    },
};
