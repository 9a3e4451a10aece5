//! The answer of `GET /info`: what the server is and accepts.

use cache::CacheConfig;
use serde::Serialize;
use utoipa::ToSchema;

use super::devices::{ModelPart, WorkerGpu};

/// What this server is and accepts.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Info {
    pub(crate) version: &'static str,
    pub(crate) model: ServedModel,
    pub(crate) limits: ServedLimits,
    pub(crate) cache: ServedCache,
    /// What the step cache costs in quality; null without audits.
    pub(crate) cache_audits: Option<ServedAudits>,
    /// Values of a request's `sampler`.
    pub(crate) samplers: Vec<&'static str>,
    /// The device of each worker.
    pub(crate) devices: Vec<ServedDevice>,
    /// The instruction set of the CPU kernels, e.g. `avx512`.
    pub(crate) instruction_set: Option<&'static str>,
    /// Data type of the weights, e.g. `bf16`; null until the model is loaded.
    pub(crate) dtype: Option<&'static str>,
    /// Format to which the linear layers of the transformer's blocks are quantized, e.g. `int8`; null without.
    pub(crate) quantization: Option<&'static str>,
    /// Whether requests need a key.
    pub(crate) auth_required: bool,
    /// Whether a request may set a priority.
    pub(crate) priorities: bool,
}

/// The served model. Facts that come from the loaded model are null until then.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ServedModel {
    pub(crate) id: Option<String>,
    /// Names that requests may use for it.
    pub(crate) names: Vec<String>,
    /// The pipeline's class in diffusers.
    pub(crate) class: Option<String>,
    /// `t2i` (text to image), `i2i` (image to image) or both.
    pub(crate) task_types: Option<Vec<&'static str>>,
    pub(crate) default_size: Option<String>,
    /// Sizes that the model was made for, if it makes no others well. Pictures from text are made at the nearest of
    /// them and resized.
    pub(crate) native_sizes: Option<Vec<String>>,
    /// What the model was trained to draw, if it is only a few things.
    pub(crate) knows: Option<Vec<String>>,
    pub(crate) default_num_inference_steps: Option<usize>,
    /// The sampler of requests without one.
    pub(crate) default_sampler: Option<&'static str>,
    /// Kind of guidance that the model was made for: `none`, `true_cfg`, `cfg` or `embedded`.
    pub(crate) guidance: Option<&'static str>,
    /// Default of `guidance_scale`, if the model uses that field.
    pub(crate) default_guidance_scale: Option<f64>,
    /// Default of `true_cfg_scale`, if the model uses that field.
    pub(crate) default_true_cfg_scale: Option<f64>,
    pub(crate) default_negative_prompt: Option<String>,
    /// Fewest pictures of a request: more than 0 if the model only edits.
    pub(crate) min_input_images: Option<usize>,
    /// Most pictures of a request: 0 if the model makes pictures from text only.
    pub(crate) max_input_images: Option<usize>,
    pub(crate) max_prompt_tokens: Option<usize>,
    /// Blocks of each list that the step cache divides.
    pub(crate) num_blocks: Option<Vec<usize>>,
}

/// The device of a worker.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ServedDevice {
    /// As `--device` names it, e.g. `cuda:0`.
    pub(crate) device: String,
    /// The GPU, if it is one.
    pub(crate) gpu: Option<WorkerGpu>,
    /// Where the parts of the model are; empty until it is loaded.
    pub(crate) parts: Vec<ModelPart>,
}

/// Limits of a request.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ServedLimits {
    /// Most pixels of one picture: the operator's limit or else the model's, which is null until it is loaded.
    pub(crate) max_pixels: Option<usize>,
    /// Most pictures of one request.
    pub(crate) max_images: i64,
    pub(crate) max_inference_steps: i64,
    pub(crate) max_prompt_chars: usize,
    /// Most bytes of a JSON body without pictures.
    pub(crate) body_limit: usize,
    /// Most bytes of a body with pictures.
    pub(crate) upload_limit: usize,
}

/// The step cache.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ServedCache {
    /// Whether requests use it unless they say otherwise.
    pub(crate) enabled: bool,
    /// Its settings.
    #[schema(value_type = Option<Object>)]
    pub(crate) config: Option<CacheConfig>,
    /// Whether a request may bring its own settings.
    pub(crate) request_config_allowed: bool,
    /// Names of the presets.
    pub(crate) presets: Vec<&'static str>,
    /// Plans of the cache that are measured, or being measured.
    pub(crate) plans: Vec<ServedPlans>,
}

/// The plans of one kind of request.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ServedPlans {
    /// Whether they are for requests with two passes a step.
    pub(crate) guided: bool,
    /// Pictures that they were measured on so far.
    pub(crate) pictures: usize,
    /// Pictures that the measurement needs; null once there are plans.
    pub(crate) learning_from: Option<usize>,
}

/// Quality of pictures made with the step cache, measured against the same pictures made without it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ServedAudits {
    /// Share of the cached pictures that are made again without the cache.
    pub(crate) share: f64,
    pub(crate) done: u64,
    /// Audits that were dropped because requested pictures had to be made.
    pub(crate) dropped: u64,
    /// Mean promised PSNR of the audited pictures; null if none had a promise.
    pub(crate) promised_psnr_db: Option<f64>,
    /// Means of all audited pictures.
    pub(crate) mean: AuditMeans,
    /// How far the plans were tightened because pictures missed their promise.
    pub(crate) tightened_by_db: f64,
    /// Results by the aim of the cache.
    pub(crate) aims: Vec<AuditedAim>,
}

/// Results of the pictures with one aim.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditedAim {
    /// `psnr_45`, `budget_0.4` or a preset's name.
    pub(crate) aim: String,
    pub(crate) done: u64,
    pub(crate) promised_psnr_db: Option<f64>,
    pub(crate) mean: AuditMeans,
}

/// Similarity to the pictures made without a cache; null without pictures.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditMeans {
    pub(crate) psnr_db: Option<f64>,
    pub(crate) ssim: Option<f64>,
    /// Relative error of the final latents.
    pub(crate) latent_error: Option<f64>,
}
