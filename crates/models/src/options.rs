//! How a model is to be loaded.

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

/// How a model is to be loaded.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// What the weights are kept in: f32, f16 or bf16.
    pub dtype: DType,
    /// What the products of the transformer's blocks are rounded to; `None` takes the weights as they are kept.
    pub quantization: Option<Quantization>,
    /// Where they live.
    pub device: Device,
    /// When the VAE works in tiles.
    pub vae_tiling: VaeTiling,
    /// What of them stays in host memory; the device is a GPU where anything does.
    pub offload: Offload,
    /// With [`Offload::Block`]: the transformer's blocks that do not.
    pub residents: Residents,
    /// The step cache of requests that bring no [`cache::CacheConfig`] of their own; `None` computes every step.
    pub cache: Option<CacheConfig>,
    /// The plans of requests whose cache follows one: those of all workers that run the model.
    pub plans: Plans,
    /// Who is told of plans that are learnt.
    pub on_learnt: OnLearnt,
    /// What is kept for requests to come.
    pub kept: KeptBytes,
    /// The digest of the transformer's files, by which plans know their model, where it was computed before.
    pub digest: Option<String>,
    /// What stands over the checkpoint's own facts.
    pub overrides: Overrides,
}

/// Settings that a checkpoint does not decide alone; `None` is the family's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Positions of picture tokens in Qwen-Image-Edit's text encoder.
    pub edit_positions: EditPositions,
    /// Pixels, about, at which pictures are edited.
    pub edit_area: Option<usize>,
    /// Pixels, about, at which the text encoder sees pictures to edit.
    pub condition_area: Option<usize>,
    /// Text tokens that FLUX.2's prompts are padded to.
    pub max_sequence_length: Option<usize>,
    /// What takes the steps of requests that do not say.
    pub sampler: Option<Sampler>,
}

impl Overrides {
    /// A checkpoint's facts with these in their place.
    pub(crate) fn over(&self, facts: Facts) -> Facts {
        Facts {
            edit_area: self.edit_area.or(facts.edit_area),
            condition_area: self.condition_area.or(facts.condition_area),
            ..facts
        }
    }

    /// A family's card, with what a checkpoint's facts and these know better.
    pub(crate) fn card(&self, facts: &Facts, card: ModelCard) -> ModelCard {
        let card = facts.applied_to(card);
        ModelCard { default_sampler: self.sampler.unwrap_or(card.default_sampler), ..card }
    }
}

/// How the text encoder of Qwen-Image-Edit counts the tokens of a picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EditPositions {
    /// By row and column, as the model was trained (M-RoPE).
    #[default]
    MRope3d,
    /// One after another, as diffusers up to 0.42 does with transformers 5:
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

/// Told as tensors arrive: the component, bytes loaded, bytes in all.
pub type Progress<'a> = &'a dyn Fn(&'static str, usize, usize);
