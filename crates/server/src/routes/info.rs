//! What this server is: its version, its model, its limits.

use axum::Json;
use axum::extract::State;
use cache::{CacheConfig, Planning, Plans, Progress, Quality};
use diffusion::{GuidanceKind, MAX_IMAGES, MAX_INFERENCE_STEPS, MAX_PROMPT_CHARS, ModelCard, Sampler};
use serde::Serialize;
use utoipa::ToSchema;

use super::models::task_types;
use crate::audits::{Audits, Found};
use crate::config::{BuildInfo, ServerConfig};
use crate::devices::{ModelPart, WorkerDevice, WorkerGpu};
use crate::state::AppState;

/// `GET /version`.
pub(crate) async fn version(State(state): State<AppState>) -> Json<BuildInfo> {
    Json(state.config.build.clone())
}

/// `GET /info`: enough for a page to offer what this server takes.
pub(crate) async fn info(State(state): State<AppState>) -> Json<Info> {
    let config = &state.config;
    let card = state.card().ok();
    Json(Info {
        version: config.build.version,
        model: ServedModel::new(&config.served_model_names, card.as_deref()),
        limits: ServedLimits::new(config, card.as_deref()),
        cache: ServedCache::new(config),
        cache_audits: (config.cache_audit > 0.0).then(|| ServedAudits::new(&state.audits)),
        samplers: Sampler::NAMED.map(|(name, _)| name).to_vec(),
        devices: config.devices.iter().map(ServedDevice::new).collect(),
        instruction_set: config.instruction_set,
        dtype: card.as_deref().map(|card| card.dtype),
        quantization: config.quantization,
        auth_required: !config.api_keys.is_empty(),
        priorities: config.priorities,
    })
}

/// What a server is and takes.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Info {
    version: &'static str,
    model: ServedModel,
    limits: ServedLimits,
    cache: ServedCache,
    /// What it costs in likeness, where that is looked at.
    cache_audits: Option<ServedAudits>,
    /// What a request may name as its `sampler`.
    samplers: Vec<&'static str>,
    /// What each worker runs on.
    devices: Vec<ServedDevice>,
    /// The instructions that the kernels of a worker on the CPU are made of, e.g. `avx512`.
    instruction_set: Option<&'static str>,
    /// The float type that weights are kept in, e.g. `bf16`; null until the model is loaded.
    dtype: Option<&'static str>,
    /// What the products of the transformer's blocks are rounded to, e.g. `int8`, if they are.
    quantization: Option<&'static str>,
    /// Whether requests need a key.
    auth_required: bool,
    /// Whether a request may bring a priority.
    priorities: bool,
}

/// The served model. What only the loaded model knows is null until then.
#[derive(Debug, Serialize, ToSchema)]
struct ServedModel {
    id: Option<String>,
    /// What requests may call it.
    names: Vec<String>,
    /// The pipeline's class in diffusers.
    class: Option<String>,
    /// `t2i` (words to a picture), `i2i` (pictures to a picture) or both.
    task_types: Option<Vec<&'static str>>,
    default_size: Option<String>,
    /// The sizes that the model was made for, if it makes no others well: pictures of words are made at the nearest and
    /// resized.
    native_sizes: Option<Vec<String>>,
    /// What the model was trained to draw, if that is a few things only.
    knows: Option<Vec<String>>,
    default_num_inference_steps: Option<usize>,
    /// The sampler of requests that name none.
    default_sampler: Option<&'static str>,
    /// The guidance that the model was made for: `none`, `true_cfg`, `cfg` or `embedded`.
    guidance: Option<&'static str>,
    /// The weight of that guidance, where requests name it `guidance_scale`.
    default_guidance_scale: Option<f64>,
    /// The same, where they name it `true_cfg_scale`.
    default_true_cfg_scale: Option<f64>,
    default_negative_prompt: Option<String>,
    /// Fewest pictures of a request: more than 0 where the model does nothing but edit.
    min_input_images: Option<usize>,
    /// Most pictures of a request: 0 where the model makes pictures from words alone.
    max_input_images: Option<usize>,
    max_prompt_tokens: Option<usize>,
    /// Blocks of each list that the step cache divides.
    num_blocks: Option<Vec<usize>>,
}

impl ServedModel {
    fn new(names: &[String], card: Option<&ModelCard>) -> Self {
        ServedModel {
            id: names.first().cloned(),
            names: names.to_vec(),
            class: card.map(|card| card.class.clone()),
            task_types: card.map(|card| task_types(card.input_images)),
            default_size: card.map(|card| card.default_size.to_string()),
            native_sizes: card.map(|card| card.native_sizes.iter().map(ToString::to_string).collect()),
            knows: card.map(|card| card.knows.clone()),
            default_num_inference_steps: card.map(|card| card.default_num_inference_steps),
            default_sampler: card.map(|card| card.default_sampler.name()),
            guidance: card.map(|card| card.guidance.name()),
            default_guidance_scale: card
                .filter(|card| matches!(card.guidance, GuidanceKind::Cfg | GuidanceKind::Embedded))
                .map(|card| card.default_guidance_scale),
            default_true_cfg_scale: card
                .filter(|card| card.guidance == GuidanceKind::TrueCfg)
                .map(|card| card.default_guidance_scale),
            default_negative_prompt: card.and_then(|card| card.default_negative_prompt.clone()),
            min_input_images: card.map(|card| card.input_images.min_images),
            max_input_images: card.map(|card| card.input_images.max_images),
            max_prompt_tokens: card.map(|card| card.max_prompt_tokens),
            num_blocks: card.map(|card| card.num_blocks.clone()),
        }
    }
}

/// What a worker runs on.
#[derive(Debug, Serialize, ToSchema)]
struct ServedDevice {
    /// As `--device` names it, e.g. `cuda:0`.
    device: String,
    /// What it is, if it is a GPU.
    gpu: Option<WorkerGpu>,
    /// Where the parts of the model are; none before it is loaded.
    parts: Vec<ModelPart>,
}

impl ServedDevice {
    fn new(device: &WorkerDevice) -> Self {
        let (parts, WorkerDevice { device, gpu, .. }) = (device.parts(), device.clone());
        ServedDevice { device, gpu, parts }
    }
}

/// The bounds of a request.
#[derive(Debug, Serialize, ToSchema)]
struct ServedLimits {
    /// Of one picture: the operator's limit or else the model's, which is not known before it is loaded.
    max_pixels: Option<usize>,
    /// Of one request.
    max_images: i64,
    max_inference_steps: i64,
    max_prompt_chars: usize,
    /// Most bytes of a JSON body without pictures.
    body_limit: usize,
    /// Most bytes of a body with pictures.
    upload_limit: usize,
}

impl ServedLimits {
    fn new(config: &ServerConfig, card: Option<&ModelCard>) -> Self {
        let max_pixels = card.map_or(config.limits.max_pixels, |card| Some(config.limits.max_pixels(card)));
        ServedLimits {
            max_pixels,
            max_images: MAX_IMAGES,
            max_inference_steps: MAX_INFERENCE_STEPS,
            max_prompt_chars: MAX_PROMPT_CHARS,
            body_limit: config.body_limit,
            upload_limit: config.upload_limit,
        }
    }
}

/// The step cache.
#[derive(Debug, Serialize, ToSchema)]
struct ServedCache {
    /// Whether requests run with one unless they say otherwise.
    enabled: bool,
    /// Its settings.
    #[schema(value_type = Option<Object>)]
    config: Option<CacheConfig>,
    /// Whether a request may bring settings of its own.
    request_config_allowed: bool,
    /// The names of settings that belong together.
    presets: Vec<&'static str>,
    /// What is known of the model that requests may be planned by, or is being learnt.
    plans: Vec<ServedPlans>,
}

/// The plans of one kind of request.
#[derive(Debug, Serialize, ToSchema)]
struct ServedPlans {
    /// Whether they are for requests with two passes a step.
    guided: bool,
    /// Pictures that they were measured on, or so far.
    pictures: usize,
    /// Pictures that they are being learnt from; null once there are plans.
    learning_from: Option<usize>,
}

impl ServedPlans {
    fn all(plans: &Plans) -> Vec<ServedPlans> {
        let of_kind = |guided| match (plans.current(guided), plans.progress(guided)) {
            (Some(Planning { calibration, .. }), _) => {
                Some(ServedPlans { guided, pictures: calibration.pictures, learning_from: None })
            }
            (None, Some(Progress { pictures, of })) => Some(ServedPlans { guided, pictures, learning_from: Some(of) }),
            (None, None) => None,
        };
        [true, false].into_iter().filter_map(of_kind).collect()
    }
}

impl ServedCache {
    fn new(config: &ServerConfig) -> Self {
        ServedCache {
            enabled: config.cache.is_some(),
            config: config.cache.clone(),
            request_config_allowed: config.allow_request_cache_config,
            presets: Quality::NAMED.iter().map(|(name, _)| *name).collect(),
            plans: ServedPlans::all(&config.plans),
        }
    }
}

/// What was found of pictures made with the step cache, against the same made without it.
#[derive(Debug, Serialize, ToSchema)]
struct ServedAudits {
    /// Of the pictures made with it, those that are made again without.
    share: f64,
    done: u64,
    /// That were to be made again and were not, as others were waited for.
    dropped: u64,
    /// The PSNR that was promised of those that are done, where any was, in the mean.
    promised_psnr_db: Option<f64>,
    /// Of those that are done.
    mean: AuditMeans,
    /// By how much plans were tightened, as pictures were below their promise.
    tightened_by_db: f64,
    /// By what the cache was to reach.
    aims: Vec<AuditedAim>,
}

/// Pictures whose cache was to reach the same.
#[derive(Debug, Serialize, ToSchema)]
struct AuditedAim {
    /// `psnr_45`, `budget_0.4` or a preset's name.
    aim: String,
    done: u64,
    promised_psnr_db: Option<f64>,
    mean: AuditMeans,
}

/// How like the pictures are to those made without a cache; null of none.
#[derive(Debug, Serialize, ToSchema)]
struct AuditMeans {
    psnr_db: Option<f64>,
    ssim: Option<f64>,
    /// The relative error of the last latents.
    latent_error: Option<f64>,
}

impl ServedAudits {
    fn new(audits: &Audits) -> Self {
        let tally = audits.tally();
        let all = tally.all();
        let aim = |(aim, found): (&String, &Found)| AuditedAim {
            aim: aim.clone(),
            done: found.psnr.count,
            promised_psnr_db: found.promise.value(),
            mean: AuditMeans::of(found),
        };
        ServedAudits {
            share: audits.share,
            done: all.psnr.count,
            dropped: tally.dropped,
            promised_psnr_db: all.promise.value(),
            mean: AuditMeans::of(&all),
            tightened_by_db: audits.tightened_by(),
            aims: tally.aims.iter().map(aim).collect(),
        }
    }
}

impl AuditMeans {
    fn of(found: &Found) -> Self {
        let Found { psnr, ssim, latent_error, .. } = found;
        AuditMeans { psnr_db: psnr.value(), ssim: ssim.value(), latent_error: latent_error.value() }
    }
}
