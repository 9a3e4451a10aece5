//! What a server is and takes, as `GET /info` tells it.

use cache::CacheConfig;
use serde::Serialize;
use utoipa::ToSchema;

use super::devices::{ModelPart, WorkerGpu};

/// What a server is and takes.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Info {
    pub(crate) version: &'static str,
    pub(crate) model: ServedModel,
    pub(crate) limits: ServedLimits,
    pub(crate) cache: ServedCache,
    /// What it costs in likeness, where that is looked at.
    pub(crate) cache_audits: Option<ServedAudits>,
    /// What a request may name as its `sampler`.
    pub(crate) samplers: Vec<&'static str>,
    /// What each worker runs on.
    pub(crate) devices: Vec<ServedDevice>,
    /// The instructions that the kernels of a worker on the CPU are made of, e.g. `avx512`.
    pub(crate) instruction_set: Option<&'static str>,
    /// The float type that weights are kept in, e.g. `bf16`; null until the model is loaded.
    pub(crate) dtype: Option<&'static str>,
    /// What the products of the transformer's blocks are rounded to, e.g. `int8`, if they are.
    pub(crate) quantization: Option<&'static str>,
    /// Whether requests need a key.
    pub(crate) auth_required: bool,
    /// Whether a request may bring a priority.
    pub(crate) priorities: bool,
}

/// The served model. What only the loaded model knows is null until then.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ServedModel {
    pub(crate) id: Option<String>,
    /// What requests may call it.
    pub(crate) names: Vec<String>,
    /// The pipeline's class in diffusers.
    pub(crate) class: Option<String>,
    /// `t2i` (words to a picture), `i2i` (pictures to a picture) or both.
    pub(crate) task_types: Option<Vec<&'static str>>,
    pub(crate) default_size: Option<String>,
    /// The sizes that the model was made for, if it makes no others well: pictures of words are made at the nearest and
    /// resized.
    pub(crate) native_sizes: Option<Vec<String>>,
    /// What the model was trained to draw, if that is a few things only.
    pub(crate) knows: Option<Vec<String>>,
    pub(crate) default_num_inference_steps: Option<usize>,
    /// The sampler of requests that name none.
    pub(crate) default_sampler: Option<&'static str>,
    /// The guidance that the model was made for: `none`, `true_cfg`, `cfg` or `embedded`.
    pub(crate) guidance: Option<&'static str>,
    /// The weight of that guidance, where requests name it `guidance_scale`.
    pub(crate) default_guidance_scale: Option<f64>,
    /// The same, where they name it `true_cfg_scale`.
    pub(crate) default_true_cfg_scale: Option<f64>,
    pub(crate) default_negative_prompt: Option<String>,
    /// Fewest pictures of a request: more than 0 where the model does nothing but edit.
    pub(crate) min_input_images: Option<usize>,
    /// Most pictures of a request: 0 where the model makes pictures from words alone.
    pub(crate) max_input_images: Option<usize>,
    pub(crate) max_prompt_tokens: Option<usize>,
    /// Blocks of each list that the step cache divides.
    pub(crate) num_blocks: Option<Vec<usize>>,
}

/// What a worker runs on.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ServedDevice {
    /// As `--device` names it, e.g. `cuda:0`.
    pub(crate) device: String,
    /// What it is, if it is a GPU.
    pub(crate) gpu: Option<WorkerGpu>,
    /// Where the parts of the model are; none before it is loaded.
    pub(crate) parts: Vec<ModelPart>,
}

/// The bounds of a request.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ServedLimits {
    /// Of one picture: the operator's limit or else the model's, which is not known before it is loaded.
    pub(crate) max_pixels: Option<usize>,
    /// Of one request.
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
    /// Whether requests run with one unless they say otherwise.
    pub(crate) enabled: bool,
    /// Its settings.
    #[schema(value_type = Option<Object>)]
    pub(crate) config: Option<CacheConfig>,
    /// Whether a request may bring settings of its own.
    pub(crate) request_config_allowed: bool,
    /// The names of settings that belong together.
    pub(crate) presets: Vec<&'static str>,
    /// What is known of the model that requests may be planned by, or is being learnt.
    pub(crate) plans: Vec<ServedPlans>,
}

/// The plans of one kind of request.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ServedPlans {
    /// Whether they are for requests with two passes a step.
    pub(crate) guided: bool,
    /// Pictures that they were measured on, or so far.
    pub(crate) pictures: usize,
    /// Pictures that they are being learnt from; null once there are plans.
    pub(crate) learning_from: Option<usize>,
}

/// What was found of pictures made with the step cache, against the same made without it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ServedAudits {
    /// Of the pictures made with it, those that are made again without.
    pub(crate) share: f64,
    pub(crate) done: u64,
    /// That were to be made again and were not, as others were waited for.
    pub(crate) dropped: u64,
    /// The PSNR that was promised of those that are done, where any was, in the mean.
    pub(crate) promised_psnr_db: Option<f64>,
    /// Of those that are done.
    pub(crate) mean: AuditMeans,
    /// By how much plans were tightened, as pictures were below their promise.
    pub(crate) tightened_by_db: f64,
    /// By what the cache was to reach.
    pub(crate) aims: Vec<AuditedAim>,
}

/// Pictures whose cache was to reach the same.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditedAim {
    /// `psnr_45`, `budget_0.4` or a preset's name.
    pub(crate) aim: String,
    pub(crate) done: u64,
    pub(crate) promised_psnr_db: Option<f64>,
    pub(crate) mean: AuditMeans,
}

/// How like the pictures are to those made without a cache; null of none.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditMeans {
    pub(crate) psnr_db: Option<f64>,
    pub(crate) ssim: Option<f64>,
    /// The relative error of the last latents.
    pub(crate) latent_error: Option<f64>,
}
