//! Generation without a server: a model in this process, one call at a time.

use std::io::Cursor;
use std::path::Path;
use std::time::{Duration, Instant};

use cache::{Calibration, Plans};
use candle_core::Device;
use diffusion::{
    BlockRun, ImageRequest, ImageSize, Interrupt, Limits, ModelCard, Pipeline, RequestDraft, RgbImage, Sampler,
    StepReport, Work,
};
use gpu::Unavailable;
use image::{ColorType, ImageFormat};
use models::{
    AnyPipeline, BESIDE_WEIGHTS, Checkpoint, KeptBytes, LoadError, LoadOptions, OnLearnt, Overrides, Placement,
    RequestState,
};

use crate::about_device::{AboutGpu, about_gpu};
use crate::cache_flags::{CacheBackend, CacheFlags};
use crate::calibrated::check_model;
use crate::calibrating::calibrate;
use crate::device::{DtypeName, QuantizationName};
use crate::device_name::DeviceName;
use crate::edit_positions::EditPositionsName;
use crate::error::Error;
use crate::input::OmniInput;
use crate::offload::OffloadName;
use crate::progress::LoadingBars;
use crate::sampler::SamplerName;
use crate::source::ModelSource;
use crate::vae_tiling::VaeTilingName;
use crate::whole_file::write_whole;

/// A loaded model.
pub struct Omni {
    pipeline: AnyPipeline,
    limits: Limits,
    device: Device,
    /// Of the transformer's files.
    digest: String,
    placement: Placement,
    gpu: Option<AboutGpu>,
}

/// How to load a model; every setting has a default.
#[derive(Default)]
pub struct OmniBuilder {
    model: Option<String>,
    checkpoint: Option<Checkpoint>,
    revision: Option<String>,
    device: DeviceName,
    dtype: Option<DtypeName>,
    quantization: Option<QuantizationName>,
    offload: OffloadName,
    edit_positions: EditPositionsName,
    vae_tiling: VaeTilingName,
    sampler: Option<SamplerName>,
    cache: CacheFlags,
    plans: Plans,
    limits: Limits,
    memory_budget: Option<u64>,
}

/// What to generate, under the guide's names; `None` is the model's default.
#[derive(Clone, Debug, Default)]
pub struct OmniDiffusionSamplingParams {
    /// Denoising steps.
    pub num_inference_steps: Option<i64>,
    /// What takes them.
    pub sampler: Option<SamplerName>,
    /// Height in pixels; with `width` or not at all.
    pub height: Option<usize>,
    /// Width in pixels; with `height` or not at all.
    pub width: Option<usize>,
    /// What the picture should not show.
    pub negative_prompt: Option<String>,
    /// Weight of true classifier-free guidance.
    pub true_cfg_scale: Option<f64>,
    /// Weight of plain guidance, for models made for it (FLUX.2-klein base).
    pub guidance_scale: Option<f64>,
    /// Seed of the first picture; the next ones count up.
    pub seed: Option<i64>,
    /// Pictures to make.
    pub num_outputs_per_prompt: Option<i64>,
}

/// A finished picture.
#[derive(Clone, Debug)]
pub struct GeneratedImage {
    /// The pixels.
    pub image: RgbImage,
    /// The seed that makes this picture again.
    pub seed: u64,
    /// What each step did.
    pub steps: Vec<StepReport>,
    /// What became of what was asked, in sentences: what had no effect, what the model could not do, how it used a mask.
    pub warnings: Vec<String>,
    /// Where the time of the whole call went.
    pub timings: Timings,
}

/// Where the time of a call went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    /// Prompts and noise.
    pub encode: Duration,
    /// All steps.
    pub denoise: Duration,
    /// Latents to pixels.
    pub decode: Duration,
}

/// A step that is done: an evaluation of the transformer.
#[derive(Clone, Copy, Debug)]
pub struct StepProgress {
    /// Steps done so far.
    pub done: usize,
    /// Steps in all.
    pub total: usize,
    /// Block runs of the step that were computed.
    pub computed: usize,
    /// Block runs of the step that were reused.
    pub reused: usize,
}

impl Omni {
    /// Starts describing which model to load and how.
    pub fn builder() -> OmniBuilder {
        OmniBuilder::default()
    }

    /// What the model says of itself.
    pub fn card(&self) -> &ModelCard {
        self.pipeline.card()
    }

    /// Where it runs.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Where the parts of the model are.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// What it runs on, if that is a GPU.
    pub fn gpu(&self) -> Option<&AboutGpu> {
        self.gpu.as_ref()
    }

    /// The pipeline, for a scheduler to drive.
    pub fn into_pipeline(self) -> AnyPipeline {
        self.pipeline
    }

    /// What the stages of one picture compute, as a scheduler foresees it.
    ///
    /// # Errors
    /// A parameter outside its bound.
    pub fn work(&self, input: impl Into<OmniInput>, params: OmniDiffusionSamplingParams) -> Result<Work, Error> {
        let requests = params.draft(input.into())?.build(self.card(), &self.limits, rand::random)?;
        let estimator = self.pipeline.estimator();
        Ok(requests.first().map(|request| estimator(request).work).unwrap_or_default())
    }

    /// Makes pictures of a prompt, or of a prompt and pictures.
    ///
    /// # Errors
    /// A parameter outside its bound, or the device fails.
    pub fn generate(
        &mut self,
        input: impl Into<OmniInput>,
        params: OmniDiffusionSamplingParams,
    ) -> Result<Vec<GeneratedImage>, Error> {
        self.generate_with_progress(input, params, |_| ())
    }

    /// As [`Omni::generate`], telling `progress` of every step.
    ///
    /// # Errors
    /// As [`Omni::generate`].
    pub fn generate_with_progress(
        &mut self,
        input: impl Into<OmniInput>,
        params: OmniDiffusionSamplingParams,
        mut progress: impl FnMut(StepProgress),
    ) -> Result<Vec<GeneratedImage>, Error> {
        let draft = params.draft(input.into())?;
        let idle: Vec<_> = draft.without_effect(self.card()).iter().map(ToString::to_string).collect();
        let requests = draft.build(self.card(), &self.limits, rand::random)?;
        let started = Instant::now();
        let prepared = requests.iter().map(|request| self.pipeline.prepare(request, &Interrupt::default()));
        let mut states = prepared.collect::<Result<Vec<_>, _>>()?;
        let encode = started.elapsed();

        let started = Instant::now();
        let steps = self.denoise(&requests, &mut states, &mut progress)?;
        let denoise = started.elapsed();

        let warnings = states.iter().map(|state| [idle.clone(), self.pipeline.warnings(state)].concat());
        let warnings: Vec<_> = warnings.collect();
        let started = Instant::now();
        let decoded = states.into_iter().map(|state| self.pipeline.decode(state, &Interrupt::default()));
        let images = decoded.collect::<Result<Vec<_>, _>>()?;
        let timings = Timings { encode, denoise, decode: started.elapsed() };
        let generated = images.into_iter().zip(requests).zip(steps).zip(warnings);
        let told = generated.map(|(((image, request), steps), warnings)| {
            let seed = request.params.seed;
            GeneratedImage { image, seed, steps, warnings, timings }
        });
        Ok(told.collect())
    }

    /// Checks that plans are of this model.
    ///
    /// # Errors
    /// They are of another; the message names `flag`.
    pub fn check_plans(&self, calibration: &Calibration, flag: &str) -> Result<(), Error> {
        check_model(calibration, &self.digest, flag)
    }

    /// Measures which steps of pictures of these inputs can be skipped, and how: what `--cache-backend calibrated` plans
    /// from. `progress` is told how many evaluations of the transformer are done, and how many there are.
    ///
    /// # Errors
    /// A parameter outside its bound, or the device fails.
    pub fn calibrate(
        &mut self,
        inputs: &[OmniInput],
        params: &OmniDiffusionSamplingParams,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Calibration, Error> {
        let mut requests = Vec::new();
        for (input, seed) in inputs.iter().zip(params.seed.unwrap_or(0)..) {
            // A plan takes the place of a sampler, and goes where Euler's would.
            let sampler = Some(SamplerName::Euler);
            let params = OmniDiffusionSamplingParams { seed: Some(seed), sampler, ..params.clone() };
            requests.extend(params.draft(input.clone())?.build(self.card(), &self.limits, rand::random)?);
        }
        calibrate(&mut self.pipeline, self.digest.clone(), &requests, &mut progress)
    }

    fn denoise(
        &mut self,
        requests: &[ImageRequest],
        states: &mut [RequestState],
        progress: &mut impl FnMut(StepProgress),
    ) -> Result<Vec<Vec<StepReport>>, Error> {
        let total = requests.first().map_or(0, |request| request.params.num_evaluations());
        let mut steps = vec![Vec::with_capacity(total); states.len()];
        for done in 1..=total {
            let reports = self.pipeline.step(&mut states.iter_mut().collect::<Vec<_>>(), &Interrupt::default())?;
            let runs = reports.iter().flat_map(|report| &report.runs);
            let (reused, computed): (Vec<&BlockRun>, Vec<&BlockRun>) = runs.partition(|run| run.reused);
            progress(StepProgress { done, total, computed: computed.len(), reused: reused.len() });
            steps.iter_mut().zip(reports).for_each(|(steps, report)| steps.push(report));
        }
        Ok(steps)
    }
}

impl OmniBuilder {
    /// A Hub id, a folder in the diffusers layout, or `builtin`; without one the built-in model.
    pub fn model(mut self, model: impl Into<String>) -> Self {
        self.model = Some(model.into());
        self
    }

    /// The checkpoint itself, in place of one that [`OmniBuilder::model`] finds.
    pub fn checkpoint(mut self, checkpoint: Checkpoint) -> Self {
        self.checkpoint = Some(checkpoint);
        self
    }

    /// Branch, tag or commit of a Hub model.
    pub fn revision(mut self, revision: impl Into<String>) -> Self {
        self.revision = Some(revision.into());
        self
    }

    /// Where to run.
    pub fn device(mut self, device: DeviceName) -> Self {
        self.device = device;
        self
    }

    /// What to keep the weights in.
    pub fn dtype(mut self, dtype: DtypeName) -> Self {
        self.dtype = Some(dtype);
        self
    }

    /// What to round the products of the transformer's blocks to.
    pub fn quantization(mut self, quantization: QuantizationName) -> Self {
        self.quantization = Some(quantization);
        self
    }

    /// What of the weights stays in host memory.
    pub fn offload(mut self, offload: OffloadName) -> Self {
        self.offload = offload;
        self
    }

    /// How Qwen-Image-Edit's text encoder counts the tokens of a picture.
    pub fn qwen_edit_positions(mut self, positions: EditPositionsName) -> Self {
        self.edit_positions = positions;
        self
    }

    /// When to decode in tiles.
    pub fn vae_tiling(mut self, tiling: VaeTilingName) -> Self {
        self.vae_tiling = tiling;
        self
    }

    /// What takes the steps of whoever does not say.
    pub fn sampler(mut self, sampler: SamplerName) -> Self {
        self.sampler = Some(sampler);
        self
    }

    /// Which step cache.
    pub fn cache_backend(mut self, backend: CacheBackend) -> Self {
        self.cache.cache_backend = Some(backend);
        self
    }

    /// The step cache's settings, as the JSON of `--cache-config`.
    pub fn cache_config(mut self, json: impl Into<String>) -> Self {
        self.cache.cache_config = Some(json.into());
        self
    }

    /// The step cache as a command line describes it.
    pub fn cache_flags(mut self, flags: CacheFlags) -> Self {
        self.cache = flags;
        self
    }

    /// Where the plans are that a calibrated cache follows: whoever has a clone may replace them. Without plans for a kind of
    /// request, those that [`OmniBuilder::cache_flags`] names are put there.
    pub fn plans(mut self, plans: Plans) -> Self {
        self.plans = plans;
        self
    }

    /// The bounds of a request.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The bytes that requests may take on the device, of which what is kept for later ones gets a share.
    pub fn memory_budget(mut self, bytes: Option<u64>) -> Self {
        self.memory_budget = bytes;
        self
    }

    /// Loads the model, with progress bars on a terminal.
    ///
    /// # Errors
    /// The model is not there, not whole or not supported, or a setting cannot be honoured.
    pub fn build(self) -> Result<Omni, Error> {
        let (cache, calibrated) = (self.cache.resolve()?, self.cache.calibrated()?);
        let device = self.device.open()?;
        self.offload.check(device.is_cpu())?;
        let gpu = about_gpu(&device)?;
        let memory = gpu::memory(&device);
        let quantization = QuantizationName::resolve(self.quantization, &device)?;
        let checkpoint = match self.checkpoint {
            Some(checkpoint) => checkpoint,
            None => ModelSource::parse(self.model.as_deref(), self.revision).open()?,
        };
        let digest = checkpoint.digest("transformer")?;
        let on_learnt = match calibrated {
            Some(calibrated) => calibrated.put(&self.plans, &digest)?,
            None => OnLearnt::default(),
        };
        let stored = checkpoint.stored_dtype("transformer")?;
        let dtype = DtypeName::resolve(self.dtype, &device, stored, kernels::multiplies_bf16());
        let bars = LoadingBars::default();
        let report = |component, done, total| bars.update(component, done, total);
        let sampler = self.sampler.map(Sampler::from);
        let overrides = Overrides { edit_positions: self.edit_positions.into(), sampler, ..Overrides::default() };
        let vae_tiling = self.vae_tiling.resolve(memory.map(|memory| memory.total));
        let (device, plans) = (device.clone(), self.plans);
        let options = LoadOptions {
            dtype,
            quantization,
            device,
            vae_tiling,
            cache,
            plans,
            on_learnt,
            digest: Some(digest.clone()),
            overrides,
            ..LoadOptions::default()
        };
        let free = memory.map(|memory| memory.free);
        let bytes = models::model_bytes(&checkpoint, &options)?;
        let placement = self.offload.placement(&bytes, self.device, free, self.memory_budget)?;
        let left = free.map(|free| free.saturating_sub(placement.device_bytes() + BESIDE_WEIGHTS));
        let options = LoadOptions {
            offload: placement.offload,
            residents: placement.residents,
            kept: self.memory_budget.or(left).map(KeptBytes::beside).unwrap_or_default(),
            ..options
        };
        let pipeline = models::load(&checkpoint, &options, &report).map_err(|err| match err {
            LoadError::Cache(err) => self.cache.told(&err),
            err if kernels::is_lost(&options.device) => err.into(),
            LoadError::Device { ref file, .. } if err.is_out_of_memory() => match free {
                Some(free) => {
                    let reason = Unavailable::TooLittleMemory { file: file.clone(), free };
                    Error::Device { device: self.device, reason }
                }
                None => err.into(),
            },
            err => err.into(),
        })?;
        Ok(Omni { pipeline, limits: self.limits, device: options.device, digest, placement, gpu })
    }
}

impl OmniDiffusionSamplingParams {
    fn draft(self, input: OmniInput) -> Result<RequestDraft, Error> {
        let size = match (self.width, self.height) {
            (None, None) => None,
            (Some(width), Some(height)) if width > 0 && height > 0 => Some(ImageSize { width, height }),
            (width, height) => {
                let side = |side: Option<usize>| side.map_or("nothing".into(), |n| n.to_string());
                let given = format!("width {}, height {}", side(width), side(height));
                return Err(
                    diffusion::InvalidRequest::new("size", "have a width and a height of at least 1", given).into()
                );
            }
        };
        Ok(RequestDraft {
            prompt: input.prompt,
            input_images: input.pictures.images,
            mask: input.pictures.mask,
            negative_prompt: self.negative_prompt,
            size,
            n: self.num_outputs_per_prompt,
            num_inference_steps: self.num_inference_steps,
            sampler: self.sampler.map(Sampler::from),
            guidance_scale: self.guidance_scale,
            true_cfg_scale: self.true_cfg_scale,
            seed: self.seed,
            ..RequestDraft::default()
        })
    }
}

impl GeneratedImage {
    /// Writes the picture; the file's ending says the format (png, jpg, webp).
    ///
    /// # Errors
    /// The ending is unknown, or the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        save_image(&self.image, path.as_ref())
    }
}

/// Writes a picture, whole or not at all; the file's ending says the format (png, jpg, webp).
///
/// # Errors
/// The ending is unknown, or the file cannot be written.
pub fn save_image(image: &RgbImage, path: &Path) -> Result<(), Error> {
    let name = || path.display().to_string();
    let (width, height) = (image.size.width as u32, image.size.height as u32);
    let mut file = Cursor::new(Vec::new());
    ImageFormat::from_path(path)
        .and_then(|format| {
            image::write_buffer_with_format(&mut file, &image.pixels, width, height, ColorType::Rgb8, format)
        })
        .map_err(|source| Error::Encode { path: name(), source })?;
    write_whole(path, file.get_ref()).map_err(|source| Error::File { action: "write", path: name(), source })
}
