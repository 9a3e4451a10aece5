//! The published checkpoints of FLUX.2-klein.

use crate::model_family::{Makes, PublishedModel};

/// The transformer has 3.88 B parameters; 27 of Qwen3-4B's 36 layers are loaded.
const KLEIN_4B: PublishedModel = PublishedModel {
    id: "black-forest-labs/FLUX.2-klein-4B",
    class: "Flux2KleinPipeline",
    makes: Makes::TextAndEdits,
    max_images: 4,
    num_inference_steps: 4,
    guidance: "none (distilled)",
    segments: &[("transformer_blocks", 5), ("single_transformer_blocks", 20)],
    size: (1024, 1024),
    licence: "Apache-2.0",
    disk_bytes: 16_000_000_000,
    memory_bytes: 14_200_000_000,
};

/// The transformer has 9.08 B parameters; 27 of Qwen3-8B's 36 layers are loaded.
const KLEIN_9B: PublishedModel = PublishedModel {
    id: "black-forest-labs/FLUX.2-klein-9B",
    segments: &[("transformer_blocks", 8), ("single_transformer_blocks", 24)],
    licence: "FLUX non-commercial, gated",
    disk_bytes: 34_700_000_000,
    memory_bytes: 30_000_000_000,
    ..KLEIN_4B
};

/// All published checkpoints that latentd runs.
pub(super) const MODELS: &[PublishedModel] = &[
    KLEIN_4B,
    PublishedModel {
        id: "black-forest-labs/FLUX.2-klein-base-4B",
        num_inference_steps: 50,
        guidance: "CFG 4",
        ..KLEIN_4B
    },
    KLEIN_9B,
    PublishedModel {
        id: "black-forest-labs/FLUX.2-klein-base-9B",
        num_inference_steps: 50,
        guidance: "CFG 4",
        ..KLEIN_9B
    },
];
