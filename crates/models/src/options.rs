//! Options for loading a model.

use cache::{CacheConfig, Plans};
use candle_core::{DType, Device};
use diffusion::{ModelCard, Sampler};

use crate::facts::Facts;
use crate::kept_bytes::KeptBytes;
use crate::learning::OnLearnt;
use crate::placement::Offload;
use crate::precision::Quantization;
use crate::residents::Residents;
use crate::tiling::VaeTiling;

/// Options for loading a model.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Type of the stored weights: f32, f16 or bf16.
    pub dtype: DType,
    /// Quantization of the transformer's blocks; `None` uses the weights in `dtype`.
    pub quantization: Option<Quantization>,
    /// Device of the model.
    pub device: Device,
    /// When the VAE works in tiles.
    pub vae_tiling: VaeTiling,
    /// The parts that stay in host memory. Unless it is [`Offload::None`], the device is a GPU.
    pub offload: Offload,
    /// With [`Offload::Block`], the transformer's blocks that stay on the device.
    pub residents: Residents,
    /// The step cache of requests without a [`cache::CacheConfig`] of their own; `None` computes every step.
    pub cache: Option<CacheConfig>,
    /// The plans that requests follow, shared by all workers of the model.
    pub plans: Plans,
    /// Callback for newly learnt plans.
    pub on_learnt: OnLearnt,
    /// Limits of what is cached for later requests.
    pub kept: KeptBytes,
    /// Digest of the transformer's files, by which plans identify their model, if it was computed before.
    pub digest: Option<String>,
    /// Settings that take precedence over the checkpoint's facts.
    pub overrides: Overrides,
}

/// Settings beside those of the checkpoint; `None` means the family's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Positions of picture tokens in Qwen-Image-Edit's text encoder.
    pub edit_positions: EditPositions,
    /// Approximate number of pixels at which pictures are edited.
    pub edit_area: Option<usize>,
    /// Approximate number of pixels at which the text encoder sees the pictures to edit.
    pub condition_area: Option<usize>,
    /// Length to which FLUX.2's prompts are padded, in tokens.
    pub max_sequence_length: Option<usize>,
    /// Sampler of requests that name none.
    pub sampler: Option<Sampler>,
}

impl Overrides {
    /// Replaces the facts of a checkpoint that are overridden.
    pub(crate) fn over(&self, facts: Facts) -> Facts {
        Facts {
            edit_area: self.edit_area.or(facts.edit_area),
            condition_area: self.condition_area.or(facts.condition_area),
            ..facts
        }
    }

    /// Applies a checkpoint's facts and these overrides to a family's card.
    pub(crate) fn card(&self, facts: &Facts, card: ModelCard) -> ModelCard {
        let card = facts.applied_to(card);
        ModelCard { default_sampler: self.sampler.unwrap_or(card.default_sampler), ..card }
    }
}

/// Positions of picture tokens in Qwen-Image-Edit's text encoder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EditPositions {
    /// Rows and columns, as the model was trained (M-RoPE).
    #[default]
    MRope3d,
    /// Sequential, like diffusers up to 0.42 with transformers 5:
    /// <https://github.com/huggingface/diffusers/issues/14194>
    Sequential1d,
}

impl Default for LoadOptions {
    /// f32 on the CPU, every step computed, pictures decoded whole.
    fn default() -> Self {
        LoadOptions {
            dtype: DType::F32,
            quantization: None,
            device: Device::Cpu,
            vae_tiling: VaeTiling::default(),
            offload: Offload::None,
            residents: Residents::default(),
            cache: None,
            digest: None,
            plans: Plans::default(),
            on_learnt: OnLearnt::default(),
            kept: KeptBytes::default(),
            overrides: Overrides::default(),
        }
    }
}

/// Called as tensors are loaded, with the component, the bytes loaded and the total bytes.
pub type Progress<'a> = &'a dyn Fn(&'static str, usize, usize);
