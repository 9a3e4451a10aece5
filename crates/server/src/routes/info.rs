//! Facts about the server: its version, model and limits.

use axum::Json;
use axum::extract::State;
use cache::{Planning, Plans, Preset, Progress};
use diffusion::{GuidanceKind, MAX_IMAGES, MAX_INFERENCE_STEPS, MAX_PROMPT_CHARS, ModelCard, Sampler};

use super::models::task_types;
use crate::api::config::BuildInfo;
use crate::api::devices::WorkerDevice;
use crate::api::info::{
    AuditMeans, AuditedAim, Info, ServedAudits, ServedCache, ServedDevice, ServedLimits, ServedModel, ServedPlans,
};
use crate::audits::{AuditFindings, Audits};
use crate::config::ServerConfig;
use crate::state::AppState;

/// `GET /version`.
pub(crate) async fn version(State(state): State<AppState>) -> Json<BuildInfo> {
    Json(state.config.api.build.clone())
}

/// `GET /info`: what a page needs to offer the server's options.
pub(crate) async fn info(State(state): State<AppState>) -> Json<Info> {
    let config = &state.config;
    let card = state.card().ok();
    Json(Info {
        version: config.api.build.version,
        model: ServedModel::new(&config.api.served_model_names, card.as_deref()),
        limits: ServedLimits::new(config, card.as_deref()),
        cache: ServedCache::new(config),
        cache_audits: (config.cache_audit > 0.0).then(|| ServedAudits::new(&state.audits)),
        samplers: Sampler::NAMED.map(|(name, _)| name).to_vec(),
        devices: config.devices.iter().map(ServedDevice::new).collect(),
        instruction_set: config.instruction_set,
        dtype: card.as_deref().map(|card| card.dtype),
        quantization: config.quantization,
        auth_required: !config.api_keys.is_empty(),
        priorities: config.api.priorities,
    })
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

impl ServedDevice {
    fn new(device: &WorkerDevice) -> Self {
        let (parts, WorkerDevice { device, gpu, .. }) = (device.parts(), device.clone());
        ServedDevice { device, gpu, parts }
    }
}

impl ServedLimits {
    fn new(config: &ServerConfig, card: Option<&ModelCard>) -> Self {
        let max_pixels = card.map_or(config.api.limits.max_pixels, |card| Some(config.api.limits.max_pixels(card)));
        ServedLimits {
            max_pixels,
            max_images: MAX_IMAGES,
            max_inference_steps: MAX_INFERENCE_STEPS,
            max_prompt_chars: MAX_PROMPT_CHARS,
            body_limit: config.uploads.body_limit,
            upload_limit: config.uploads.upload_limit,
        }
    }
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
            enabled: config.api.cache.is_some(),
            config: config.api.cache.clone(),
            request_config_allowed: config.api.allow_request_cache_config,
            presets: Preset::NAMED.iter().map(|(name, _)| *name).collect(),
            plans: ServedPlans::all(&config.plans),
        }
    }
}

impl ServedAudits {
    fn new(audits: &Audits) -> Self {
        let tally = audits.tally();
        let all = tally.all();
        let aim = |(aim, found): (&String, &AuditFindings)| AuditedAim {
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
    fn of(found: &AuditFindings) -> Self {
        let AuditFindings { psnr, ssim, latent_error, .. } = found;
        AuditMeans { psnr_db: psnr.value(), ssim: ssim.value(), latent_error: latent_error.value() }
    }
}
