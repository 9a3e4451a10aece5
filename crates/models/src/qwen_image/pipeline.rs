//! The whole of Qwen-Image behind [`Pipeline`].

use std::sync::Arc;

use cache::{CacheConfig, ConfigError};
use candle_core::{DType, Device, Tensor};
use diffusion::{
    CfgBranch, Estimator, FlowMatchConfig, ImageRequest, ImageSize, InvalidRequest, ModelCard, Pipeline, PipelineError,
    PreviewMethod, PromptCacheUse, RgbImage, Sigmas, StepReport,
};
use kernels::in_pool;

use super::config::{TransformerConfig, VaeConfig, flow_match_config};
use super::cost::CostModel;
use super::prompt::{MAX_PROMPT_TOKENS, PromptEncoder};
use super::transformer::Transformer;
use super::vae::Vae;
use crate::checkpoint::Checkpoint;
use crate::device_error;
use crate::dit::Dit;
use crate::error::LoadError;
use crate::latent_rgb::{LatentRgb, enlarged};
use crate::load::{LoadOptions, Progress};
use crate::noise::randn;
use crate::prompt_cache::PromptCache;
use crate::qwen_decoder::{Decoder, DecoderConfig};
use crate::residuals::RequestResiduals;
use crate::state::{Branch, RequestState};
use crate::step::denoise_step;
use crate::tokenizer::Tokenizer;
use crate::weights::Precision;

/// A loaded Qwen-Image.
pub struct QwenImage {
    prompts: PromptEncoder,
    prompt_cache: PromptCache,
    transformer: Transformer,
    vae: Vae,
    latent_rgb: LatentRgb,
    schedule: FlowMatchConfig,
    latent_channels: usize,
    costs: CostModel,
    device: Device,
    card: ModelCard,
}

impl QwenImage {
    /// Loads tokenizer, text encoder, transformer and VAE, in this order.
    ///
    /// # Errors
    /// The first thing that is missing or wrong, by file and name.
    pub fn load(checkpoint: &Checkpoint, options: &LoadOptions, progress: Progress<'_>) -> Result<Self, LoadError> {
        let precision = Precision::new(options.dtype, options.device.clone());
        let open = |component: &str| checkpoint.weights(component, precision.clone());
        let tokenizer = Tokenizer::load(checkpoint, "tokenizer")?;
        let schedule = flow_match_config(checkpoint)?;
        let transformer_config = TransformerConfig::load(checkpoint)?;
        let vae_config = VaeConfig::load(checkpoint)?;
        if let Some(cache) = &options.cache {
            cache.validate(&[transformer_config.num_layers])?;
        }

        let config = DecoderConfig::load(checkpoint, "text_encoder")?;
        let report = |done, total| progress("text encoder", done, total);
        let weights = open("text_encoder")?;
        let language_model = Decoder::load(&config, &weights.scope("", &report), config.num_hidden_layers)?;
        let report = |done, total| progress("transformer", done, total);
        let transformer = Transformer::load(&transformer_config, &open("transformer")?.scope("", &report))?;
        let report = |done, total| progress("vae", done, total);
        let vae = Vae::load(&vae_config, &open("vae")?.scope("", &report))?;
        Ok(QwenImage {
            prompts: PromptEncoder { tokenizer, language_model },
            prompt_cache: PromptCache::new(options.prompt_cache_bytes),
            transformer,
            vae,
            latent_rgb: LatentRgb::new(vae_config.z_dim),
            schedule,
            latent_channels: transformer_config.out_channels,
            device: options.device.clone(),
            card: card(&transformer_config),
            costs: CostModel {
                transformer: transformer_config,
                activation_bytes: precision.activations.size_in_bytes(),
                cache: options.cache.clone(),
            },
        })
    }

    /// The text half.
    pub fn prompts(&self) -> &PromptEncoder {
        &self.prompts
    }

    /// The diffusion transformer.
    pub fn transformer(&self) -> &Transformer {
        &self.transformer
    }

    /// The VAE.
    pub fn vae(&self) -> &Vae {
        &self.vae
    }

    /// The initial packed noise of a seed, `[image_seq_len, 4 channels]` in f32, drawn in the unpacked
    /// order as diffusers draws it.
    ///
    /// # Errors
    /// The device fails.
    pub fn noise(&self, seed: u64, size: ImageSize) -> candle_core::Result<Tensor> {
        let (rows, columns) = size.token_grid();
        let shape = (self.latent_channels, 2 * rows, 2 * columns);
        let noise = randn(seed, self.latent_channels * 4 * rows * columns);
        pack(&Tensor::from_vec(noise, shape, &self.device)?)
    }

    fn branches(&mut self, request: &ImageRequest) -> Result<(Vec<Branch>, PromptCacheUse), PipelineError> {
        let mut used = PromptCacheUse::default();
        let mut branches = Vec::new();
        for &branch in CfgBranch::of_step(request.do_true_cfg()) {
            let (field, prompt) = match branch {
                CfgBranch::Cond => ("prompt", request.prompt.as_str()),
                CfgBranch::Uncond => ("negative_prompt", request.negative_prompt.as_deref().unwrap_or_default()),
            };
            branches.push(Branch { branch, prompt_embeds: self.embed(field, prompt, &mut used)? });
        }
        used.bytes = self.prompt_cache.bytes() as u64;
        Ok((branches, used))
    }

    /// The text stream of `prompt`, encoded unless it was not long ago.
    fn embed(&mut self, field: &'static str, prompt: &str, used: &mut PromptCacheUse) -> Result<Tensor, PipelineError> {
        if let Some(kept) = self.prompt_cache.get(prompt) {
            used.hits += 1;
            return Ok(kept);
        }
        let embeds = self.prompts.encode(field, prompt)?;
        self.prompt_cache.insert(prompt, &embeds);
        used.misses += 1;
        Ok(embeds)
    }

    /// The cache of a request, its own settings before the operator's, and what its sender should know.
    fn residuals(
        &self,
        request: &ImageRequest,
        branches: usize,
    ) -> Result<(Option<RequestResiduals>, Vec<String>), PipelineError> {
        let own = request.extensions.get::<CacheConfig>();
        let Some(config) = own.or(self.costs.cache.as_ref()) else { return Ok((None, Vec::new())) };
        let blocks: Vec<_> = self.transformer.segments().iter().map(|segment| segment.num_blocks).collect();
        config.validate(&blocks).map_err(|err| match err {
            ConfigError::Invalid { key, bound, given } => InvalidRequest::new(key, bound, given),
            ConfigError::UnknownKey { key, .. } => InvalidRequest::new("cache", "have known keys alone", key),
        })?;
        let steps = request.params.num_inference_steps;
        let (residuals, warnings) = RequestResiduals::new(config, steps, self.transformer.segments(), branches);
        Ok((residuals, warnings.iter().map(ToString::to_string).collect()))
    }

    /// The picture of packed latents, from which previews learn the colours.
    fn picture(&mut self, tokens: &Tensor, size: ImageSize) -> candle_core::Result<RgbImage> {
        let latents = unpack(tokens, size.token_grid())?;
        let pixels = in_pool(&self.device, || self.vae.decode(&latents)?.flatten_all()?.to_vec1::<f32>())?;
        // Half to even, as numpy rounds.
        let byte = |x: f32| ((x / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8;
        let picture = RgbImage { size: size.padded(), pixels: pixels.into_iter().map(byte).collect() };
        self.latent_rgb.learn(&latents.flatten_all()?.to_vec1()?, &picture);
        Ok(picture.crop_center(size))
    }

    /// The picture of packed latents without the VAE; `None` as long as there was no picture to learn from.
    fn sketch(&self, tokens: &Tensor, size: ImageSize) -> candle_core::Result<Option<RgbImage>> {
        let (rows, columns) = size.token_grid();
        let latents = unpack(tokens, (rows, columns))?.flatten_all()?.to_vec1()?;
        let small = self.latent_rgb.draw(&latents, ImageSize { width: 2 * columns, height: 2 * rows });
        Ok(small.map(|small| enlarged(small).crop_center(size)))
    }

    fn draw(&mut self, tokens: &Tensor, size: ImageSize, method: PreviewMethod) -> candle_core::Result<RgbImage> {
        let sketch = match method {
            PreviewMethod::Latent2Rgb => self.sketch(tokens, size)?,
            PreviewMethod::Vae => None,
        };
        sketch.map_or_else(|| self.picture(tokens, size), Ok)
    }

    /// Waits for the device: what was asked of a GPU so far is otherwise only on its list, and whoever
    /// measures a turn would measure the writing of the list. A picture needs no such wait, its pixels
    /// are copied from the device.
    fn synchronize(&self) -> Result<(), PipelineError> {
        self.device.synchronize().map_err(device_error)
    }
}

impl Pipeline for QwenImage {
    type State = RequestState;

    fn card(&self) -> &ModelCard {
        &self.card
    }

    fn estimator(&self) -> Estimator {
        let costs = self.costs.clone();
        Arc::new(move |request| costs.cost(request))
    }

    fn prepare(&mut self, request: &ImageRequest) -> Result<RequestState, PipelineError> {
        let size = request.params.size;
        let (branches, prompt_cache) = in_pool(&self.device.clone(), || self.branches(request))?;
        let (residuals, warnings) = self.residuals(request, branches.len())?;
        let latents = self.noise(request.params.seed, size).map_err(device_error)?;
        self.synchronize()?;
        let prompt_tokens = branches.iter().map(|branch| branch.prompt_embeds.dims()[0]).sum();
        Ok(RequestState {
            size,
            sigmas: Sigmas::new(&self.schedule, request.params.num_inference_steps, size.image_seq_len()),
            true_cfg_scale: request.params.true_cfg_scale,
            previews: request.previews,
            branches,
            prompt_tokens,
            prompt_cache,
            warnings,
            residuals,
            latents,
            estimate: None,
            step_index: 0,
        })
    }

    fn prompt_tokens(&self, state: &RequestState) -> usize {
        state.prompt_tokens
    }

    fn prompt_cache(&self, state: &RequestState) -> PromptCacheUse {
        state.prompt_cache
    }

    fn warnings(&self, state: &RequestState) -> Vec<String> {
        state.warnings.clone()
    }

    fn step(&mut self, batch: &mut [&mut RequestState]) -> Result<Vec<StepReport>, PipelineError> {
        let reports = in_pool(&self.device, || denoise_step(&self.transformer, batch)).map_err(device_error)?;
        self.synchronize()?;
        Ok(reports)
    }

    fn preview(&mut self, state: &RequestState, method: PreviewMethod) -> Result<RgbImage, PipelineError> {
        let clean = state.clean_latents().ok_or_else(|| {
            PipelineError::Model(format!("no preview is due after {} steps. This is a bug.", state.step_index))
        })?;
        self.draw(clean, state.size, method).map_err(device_error)
    }

    fn decode(&mut self, state: RequestState) -> Result<RgbImage, PipelineError> {
        // The step cache's residuals make room for the VAE.
        let (latents, size) = (state.latents.clone(), state.size);
        drop(state);
        self.picture(&latents, size).map_err(device_error)
    }
}

/// Latents `[channels, h, w]` as tokens `[h/2 w/2, 4 channels]`, a token's 2x2 patch varying fastest.
///
/// # Errors
/// The device fails.
pub fn pack(latents: &Tensor) -> candle_core::Result<Tensor> {
    let (channels, height, width) = latents.dims3()?;
    let (rows, columns) = (height / 2, width / 2);
    let patches = latents.reshape((channels, rows, 2, columns, 2))?;
    patches.permute((1, 3, 0, 2, 4))?.reshape((rows * columns, 4 * channels))
}

/// Tokens `[rows columns, 4 channels]` as latents `[2 rows, 2 columns, channels]`, as the VAE reads them.
///
/// # Errors
/// The device fails.
pub fn unpack(tokens: &Tensor, (rows, columns): (usize, usize)) -> candle_core::Result<Tensor> {
    let channels = tokens.dim(1)? / 4;
    let patches = tokens.to_dtype(DType::F32)?.reshape((rows, columns, channels, 2, 2))?;
    patches.permute((0, 3, 1, 4, 2))?.reshape((2 * rows, 2 * columns, channels))
}

/// Defaults of the model card; a small network was trained on small pictures.
fn card(config: &TransformerConfig) -> ModelCard {
    // The built-in model, and every other miniature, has heads far narrower than the real 128.
    let miniature = config.attention_head_dim < 64;
    let side = if miniature { 128 } else { 1024 };
    ModelCard {
        class: "QwenImagePipeline".into(),
        default_size: ImageSize { width: side, height: side },
        default_num_inference_steps: if miniature { 20 } else { 50 },
        low_num_inference_steps: if miniature { 10 } else { 20 },
        high_num_inference_steps: if miniature { 40 } else { 80 },
        default_true_cfg_scale: if miniature { 3.0 } else { 4.0 },
        default_negative_prompt: miniature.then(|| " ".into()),
        max_input_images: 0,
        max_prompt_tokens: MAX_PROMPT_TOKENS,
        num_blocks: vec![config.num_layers],
    }
}
