//! The published checkpoints of Qwen-Image.

use crate::model_family::{Makes, PublishedModel};

const SEGMENTS: &[(&str, usize)] = &[("transformer_blocks", 60)];

/// The base of all entries: 20.43 B parameters of transformer, 7.07 B of language model.
const TEXT_TO_IMAGE: PublishedModel = PublishedModel {
    id: "Qwen/Qwen-Image",
    class: "QwenImagePipeline",
    makes: Makes::Text,
    max_images: 0,
    num_inference_steps: 50,
    guidance: "true CFG 4",
    segments: SEGMENTS,
    size: (1024, 1024),
    licence: "Apache-2.0",
    disk_bytes: 57_700_000_000,
    memory_bytes: 55_100_000_000,
};

/// Adds the vision tower's 0.68 B parameters and the VAE's encoder.
const EDIT: PublishedModel = PublishedModel {
    id: "Qwen/Qwen-Image-Edit",
    class: "QwenImageEditPipeline",
    makes: Makes::Edits,
    max_images: 1,
    memory_bytes: 56_400_000_000,
    ..TEXT_TO_IMAGE
};

const EDIT_PLUS: PublishedModel = PublishedModel {
    id: "Qwen/Qwen-Image-Edit-2509",
    class: "QwenImageEditPlusPipeline",
    max_images: 4,
    num_inference_steps: 40,
    ..EDIT
};

/// All published checkpoints that latentd runs.
pub(super) const MODELS: &[PublishedModel] = &[
    TEXT_TO_IMAGE,
    PublishedModel { id: "Qwen/Qwen-Image-2512", ..TEXT_TO_IMAGE },
    EDIT,
    EDIT_PLUS,
    PublishedModel { id: "Qwen/Qwen-Image-Edit-2511", ..EDIT_PLUS },
];
