//! The flags of loading a model, and of its device.

use models::LoadError;
use omni::{DeviceName, Omni, OmniBuilder};

use super::cache::CacheFlags;
use super::dtype::DtypeName;
use super::edit_positions::EditPositionsName;
use super::offload::OffloadName;
use super::quantization::QuantizationName;
use super::sampler::SamplerName;
use super::vae_tiling::VaeTilingName;
use crate::error::Error;
use crate::progress::LoadingBars;

/// The flags of loading a model. Every command has the same, except that a server can have several devices.
#[derive(Clone, clap::Args)]
#[command(next_help_heading = "Model")]
pub struct ModelFlags<D: clap::Args = OneDevice> {
    /// Branch, tag or commit of a Hub model
    #[arg(long, env = "LATENTD_REVISION")]
    pub revision: Option<String>,
    /// Dtype of the weights. The default is bf16 on a GPU, and on a CPU that multiplies bf16 faster if the checkpoint
    /// is in bf16, else f32
    #[arg(long, value_enum, env = "LATENTD_DTYPE")]
    pub dtype: Option<DtypeName>,
    /// Precision of the matrix products in the transformer's blocks: one byte per weight. On a CPU int8 is several
    /// times as fast as f32 with AVX-512 VNNI or AMX; fp8 is for GPUs
    #[arg(long, value_enum, env = "LATENTD_QUANTIZATION")]
    pub quantization: Option<QuantizationName>,
    /// Weights that stay in host memory and are copied to the GPU when they are used. `encoder` costs a moment for each
    /// new prompt. `block` lets Qwen-Image run on 24 GB: every step copies the blocks that do not fit beside the memory
    /// of requests, which costs time if the copy takes longer than the step. `auto` is the first that fits. vLLM-Omni's
    /// --enable-cpu-offload is `encoder`, and its --enable-layerwise-offload is `block`
    #[arg(long, value_enum, default_value_t, value_name = "WHAT", env = "LATENTD_OFFLOAD")]
    pub offload: OffloadName,
    /// How Qwen-Image-Edit's text encoder numbers the positions of a picture's tokens: by row and column, or one after
    /// another as diffusers up to 0.42 does
    #[arg(long, value_enum, default_value_t, value_name = "POSITIONS", env = "LATENTD_QWEN_EDIT_POSITIONS")]
    pub qwen_edit_positions: EditPositionsName,
    /// When the VAE works in overlapping tiles of bounded memory (256x256 pixels for Qwen-Image, 1024x1024 for FLUX.2):
    /// on is diffusers' `vae.enable_tiling()`; auto is on a GPU, where the whole would take over an eighth of its
    /// memory
    #[arg(long, value_enum, default_value_t, value_name = "WHEN", env = "LATENTD_VAE_TILING")]
    pub vae_tiling: VaeTilingName,
    /// Sampler of requests that name none; `euler` by default
    #[arg(long, value_enum, value_name = "SAMPLER", env = "LATENTD_SAMPLER")]
    pub sampler: Option<SamplerName>,
    /// The device or devices.
    #[command(flatten)]
    pub on: D,
    /// The step cache.
    #[command(flatten)]
    pub cache: CacheFlags,
}

/// The device of a command that runs its model itself.
#[derive(Clone, clap::Args)]
pub struct OneDevice {
    /// auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto", env = "LATENTD_DEVICE")]
    pub device: DeviceName,
}

/// The devices of a command that has a worker on each.
#[derive(Clone, clap::Args)]
pub struct Devices {
    /// auto, cpu, cuda or cuda:N; a list, as in cuda:0,cuda:1, starts one worker on each
    #[arg(long, value_name = "DEVICE", value_delimiter = ',', default_value = "auto", env = "LATENTD_DEVICE")]
    pub device: Vec<DeviceName>,
}

impl ModelFlags {
    /// A builder for `model`, or for the built-in one, on the device of these flags.
    ///
    /// # Errors
    /// A flag of the step cache cannot be honoured.
    pub fn builder(&self, model: Option<&str>) -> Result<OmniBuilder, Error> {
        self.builder_on(self.on.device, model)
    }
}

impl<D: clap::Args> ModelFlags<D> {
    /// The same as [`ModelFlags::builder`], on `device`.
    ///
    /// # Errors
    /// The same as those of [`ModelFlags::builder`].
    pub fn builder_on(&self, device: DeviceName, model: Option<&str>) -> Result<OmniBuilder, Error> {
        let builder = Omni::builder().device(device).cache(self.cache.resolve()?).observer(LoadingBars::default());
        let builder = builder.qwen_edit_positions(self.qwen_edit_positions.into()).offload(self.offload.into());
        let mut builder = builder.vae_tiling(self.vae_tiling.into());
        if let Some(calibrated) = self.cache.calibrated()? {
            builder = builder.plan_source(calibrated.source);
        }
        if let Some(model) = model {
            builder = builder.model(model);
        }
        if let Some(revision) = &self.revision {
            builder = builder.revision(revision);
        }
        if let Some(dtype) = self.dtype {
            builder = builder.dtype(dtype.into());
        }
        if let Some(sampler) = self.sampler {
            builder = builder.sampler(sampler.into());
        }
        Ok(match self.quantization {
            Some(quantization) => builder.quantization(quantization.into()),
            None => builder,
        })
    }

    /// Loads the model of `builder`, which was made from these flags.
    ///
    /// # Errors
    /// A flag cannot be honoured, or the model cannot be loaded.
    pub fn load(&self, builder: OmniBuilder) -> Result<Omni, Error> {
        builder.build().map_err(|err| match err {
            omni::Error::Load(LoadError::Cache(err)) => self.cache.told(&err),
            err => err.into(),
        })
    }
}
