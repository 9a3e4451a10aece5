//! From a checkpoint to a pipeline.

use cache::CacheConfig;
use candle_core::{DType, Device};

use crate::checkpoint::Checkpoint;
use crate::error::LoadError;
use crate::qwen_image::QwenImage;

/// How a model is to be loaded.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// What the weights are kept in: f32, f16 or bf16.
    pub dtype: DType,
    /// Where they live.
    pub device: Device,
    /// The step cache of requests that bring no [`cache::CacheConfig`] of their own; `None` computes every step.
    pub cache: Option<CacheConfig>,
    /// Most bytes of prompts and their embeddings that are kept for requests to come.
    pub prompt_cache_bytes: usize,
}

impl Default for LoadOptions {
    /// f32 on the CPU, every step computed, 64 MiB of prompts.
    fn default() -> Self {
        LoadOptions { dtype: DType::F32, device: Device::Cpu, cache: None, prompt_cache_bytes: 64 << 20 }
    }
}

/// Told as tensors arrive: the component, bytes loaded, bytes in all.
pub type Progress<'a> = &'a dyn Fn(&'static str, usize, usize);

/// Loads the checkpoint's pipeline, of whichever supported class it is.
///
/// # Errors
/// The first thing that is missing or wrong, by file and name.
pub fn load(checkpoint: &Checkpoint, options: &LoadOptions, progress: Progress<'_>) -> Result<QwenImage, LoadError> {
    checkpoint.class()?;
    QwenImage::load(checkpoint, options, progress)
}
