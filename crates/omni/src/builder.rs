//! The builder that loads a model.

use cache::{CacheConfig, Plans};
use candle_core::Device;
use diffusion::{Limits, Sampler};
use gpu::Unavailable;
use models::{
    BESIDE_WEIGHTS, Checkpoint, EditPositions, KeptBytes, LoadError, LoadOptions, OnLearnt, Overrides, Placement,
    Quantization,
};

use crate::about_device::about_gpu;
use crate::device_name::DeviceName;
use crate::dtype::Dtype;
use crate::error::Error;
use crate::observer::LoadObserver;
use crate::offload::OffloadPolicy;
use crate::omni::Omni;
use crate::plan_source::PlanSource;
use crate::quantization::check_quantization;
use crate::source::ModelSource;
use crate::tiling::TilingPolicy;

/// How to load a model; every setting has a default.
pub struct OmniBuilder {
    model: Option<String>,
    checkpoint: Option<Checkpoint>,
    revision: Option<String>,
    device: DeviceName,
    dtype: Option<Dtype>,
    quantization: Option<Quantization>,
    offload: OffloadPolicy,
    edit_positions: EditPositions,
    vae_tiling: TilingPolicy,
    sampler: Option<Sampler>,
    cache: Option<CacheConfig>,
    plan_source: Option<PlanSource>,
    plans: Plans,
    limits: Limits,
    memory_budget: Option<u64>,
    observer: Box<dyn LoadObserver>,
}

impl Default for OmniBuilder {
    fn default() -> Self {
        OmniBuilder {
            model: None,
            checkpoint: None,
            revision: None,
            device: DeviceName::default(),
            dtype: None,
            quantization: None,
            offload: OffloadPolicy::default(),
            edit_positions: EditPositions::default(),
            vae_tiling: TilingPolicy::default(),
            sampler: None,
            cache: None,
            plan_source: None,
            plans: Plans::default(),
            limits: Limits::default(),
            memory_budget: None,
            observer: Box::new(()),
        }
    }
}

impl Omni {
    /// Starts describing which model to load and how.
    pub fn builder() -> OmniBuilder {
        OmniBuilder::default()
    }
}

impl OmniBuilder {
    /// A Hub id, a folder in the diffusers layout, or `builtin`. The default is the built-in model.
    pub fn model(mut self, model: impl Into<String>) -> Self {
        self.model = Some(model.into());
        self
    }

    /// An opened checkpoint, used instead of the one that [`OmniBuilder::model`] names.
    pub fn checkpoint(mut self, checkpoint: Checkpoint) -> Self {
        self.checkpoint = Some(checkpoint);
        self
    }

    /// Branch, tag or commit of a Hub model.
    pub fn revision(mut self, revision: impl Into<String>) -> Self {
        self.revision = Some(revision.into());
        self
    }

    /// The device to run on.
    pub fn device(mut self, device: DeviceName) -> Self {
        self.device = device;
        self
    }

    /// The dtype of the weights.
    pub fn dtype(mut self, dtype: Dtype) -> Self {
        self.dtype = Some(dtype);
        self
    }

    /// The quantization of the GEMMs in the transformer's blocks.
    pub fn quantization(mut self, quantization: Quantization) -> Self {
        self.quantization = Some(quantization);
        self
    }

    /// Which weights stay in host memory.
    pub fn offload(mut self, offload: OffloadPolicy) -> Self {
        self.offload = offload;
        self
    }

    /// How Qwen-Image-Edit's text encoder numbers the positions of a picture's tokens.
    pub fn qwen_edit_positions(mut self, positions: EditPositions) -> Self {
        self.edit_positions = positions;
        self
    }

    /// When the VAE works in tiles.
    pub fn vae_tiling(mut self, tiling: TilingPolicy) -> Self {
        self.vae_tiling = tiling;
        self
    }

    /// The sampler of requests that name none.
    pub fn sampler(mut self, sampler: Sampler) -> Self {
        self.sampler = Some(sampler);
        self
    }

    /// The step cache of requests that name none.
    pub fn cache(mut self, config: Option<CacheConfig>) -> Self {
        self.cache = config;
        self
    }

    /// Where the plans of a calibrated cache come from.
    pub fn plan_source(mut self, source: PlanSource) -> Self {
        self.plan_source = Some(source);
        self
    }

    /// The plans that a calibrated cache follows, shared with the caller: every clone can replace them. For a kind of
    /// request without plans, the ones from [`OmniBuilder::plan_source`] are stored here.
    pub fn plans(mut self, plans: Plans) -> Self {
        self.plans = plans;
        self
    }

    /// The limits that requests are checked against.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Device memory for requests, in bytes. Results kept for later requests get a share of it.
    pub fn memory_budget(mut self, bytes: Option<u64>) -> Self {
        self.memory_budget = bytes;
        self
    }

    /// The observer that receives loading progress. The default ignores it.
    pub fn observer(mut self, observer: impl LoadObserver + 'static) -> Self {
        self.observer = Box::new(observer);
        self
    }

    /// Loads the model.
    ///
    /// # Errors
    /// The model is missing, incomplete or unsupported, or the device cannot honour a setting.
    pub fn build(mut self) -> Result<Omni, Error> {
        let device = self.device.open()?;
        self.offload.check(device.is_cpu())?;
        check_quantization(self.quantization, &device)?;
        let gpu = about_gpu(&device)?;
        let free = gpu::memory(&device).map(|memory| memory.free);
        let checkpoint = match self.checkpoint.take() {
            Some(checkpoint) => checkpoint,
            None => ModelSource::parse(self.model.as_deref(), self.revision.take()).open(&*self.observer)?,
        };
        let digest = checkpoint.digest("transformer")?;
        let options = self.options(&checkpoint, device, &digest)?;
        let placement = self.placement(&checkpoint, &options, free)?;
        let left = free.map(|free| free.saturating_sub(placement.device_bytes() + BESIDE_WEIGHTS));
        let options = LoadOptions {
            offload: placement.offload,
            residents: placement.residents,
            kept: self.memory_budget.or(left).map(KeptBytes::beside).unwrap_or_default(),
            ..options
        };
        let report = |component, done, total| self.observer.loading(component, done, total);
        let loaded = models::load(&checkpoint, &options, &report);
        let pipeline = loaded.map_err(|err| self.explain(err, &options.device, free))?;
        Ok(Omni { pipeline, limits: self.limits, device: options.device, digest, placement, gpu })
    }

    /// Load options of `checkpoint` on `device`, without the placement. `digest` is the transformer's.
    fn options(&mut self, checkpoint: &Checkpoint, device: Device, digest: &str) -> Result<LoadOptions, Error> {
        let on_learnt = match self.plan_source.take() {
            Some(source) => source.put(&self.plans, digest)?,
            None => OnLearnt::default(),
        };
        let stored = checkpoint.stored_dtype("transformer")?;
        let (edit_positions, sampler) = (self.edit_positions, self.sampler);
        Ok(LoadOptions {
            dtype: Dtype::resolve(self.dtype, &device, stored, kernels::multiplies_bf16()),
            quantization: self.quantization,
            vae_tiling: self.vae_tiling.resolve(gpu::memory(&device).map(|memory| memory.total)),
            cache: self.cache.take(),
            plans: self.plans.clone(),
            overrides: Overrides { edit_positions, sampler, ..Overrides::default() },
            device,
            on_learnt,
            digest: Some(digest.to_owned()),
            ..LoadOptions::default()
        })
    }

    fn placement(&self, checkpoint: &Checkpoint, options: &LoadOptions, free: Option<u64>) -> Result<Placement, Error> {
        let bytes = models::model_bytes(checkpoint, options)?;
        self.offload.placement(&bytes, self.device, free, self.memory_budget)
    }

    /// Turns a load error into the caller's error. `free` is the device's free memory before loading, in bytes.
    fn explain(&self, err: LoadError, device: &Device, free: Option<u64>) -> Error {
        match (&err, free) {
            (LoadError::Device { file, .. }, Some(free)) if !kernels::is_lost(device) && err.is_out_of_memory() => {
                let reason = Unavailable::TooLittleMemory { file: file.clone(), free };
                Error::Device { device: self.device, reason }
            }
            _ => err.into(),
        }
    }
}
