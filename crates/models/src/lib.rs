//! Text encoders, diffusion transformers, VAEs, weights, and the denoising step.
//!
//! [`load`] turns a [`Checkpoint`] into a pipeline of its [`Family`]. The pipeline turns a request into a
//! [`RequestState`], [`denoise_step`] advances any set of states as one ragged batch, and the VAE decodes the result.
//! This crate knows no channels, clients or clock. The step cache's rules live in their own crate and use plain
//! numbers; only this crate holds tensors.

mod block_times;
mod bounds;
mod caching;
mod checkpoint;
mod component_bytes;
mod components;
mod cost;
mod dit;
mod encodings;
mod error;
mod facts;
mod families;
mod family;
mod fit;
mod flops;
pub mod flux2;
mod forward;
mod guidance;
mod kept_bytes;
mod latent_rgb;
mod layout;
mod learn;
mod learning;
mod load;
mod mask;
mod model_family;
mod no_plan;
mod noise;
mod opening;
mod options;
mod pack;
mod peaks;
mod pipeline;
mod pixels;
mod placement;
mod planned;
mod precision;
pub mod qwen2_5_vl;
pub mod qwen_decoder;
pub mod qwen_image;
mod random_numbers;
mod residents;
mod residuals;
mod resize;
mod rope_cache;
mod schedule;
mod scope;
mod segment;
mod shard;
mod solver;
mod state;
mod step;
mod tiling;
mod timestep_embedding;
mod tokenizer;
mod until_set;
mod vae_half;
mod weight_files;
mod weights;

pub use block_times::block_times;
pub use checkpoint::Checkpoint;
pub use component_bytes::{ComponentBytes, LayerSize};
pub use cost::{PatchesOf, RequestSizes, TextLength, TextTokens};
pub use dit::{BlockList, Dit, DitRow, ReferenceLatents, Streams};
pub use error::LoadError;
pub use facts::Facts;
pub use families::{FAMILIES, family_of};
pub use family::{Family, VisionFeatures};
pub use flops::{Flops, ModelFlops};
pub use flux2::Flux2Klein;
pub use forward::{Passes, RequestPasses, forward};
pub use guidance::guided;
pub use kept_bytes::KeptBytes;
pub use layout::not_diffusers;
pub use learning::{Keep, OnLearnt, gram};
pub use load::{load, model_bytes};
pub use model_family::{Makes, ModelFamily, PublishedModel};
pub use noise::randn;
pub use options::{EditPositions, LoadOptions, Overrides, Progress};
pub use pack::{pack, unpack};
pub use peaks::Peaks;
pub use pipeline::{AnyPipeline, DiffusionPipeline};
pub use placement::{BESIDE_WEIGHTS, ModelBytes, Offload, Part, Placement, reserved};
pub use planned::{PlannedRun, along_jump};
pub use precision::{Precision, Quantization};
pub use qwen_image::QwenImage;
pub use residents::Residents;
pub use residuals::RequestResiduals;
pub use resize::{Filter, resize};
pub use scope::Scope;
pub use segment::Records;
pub use solver::Solver;
pub use state::RequestState;
pub use step::denoise_step;
pub use tiling::{Tiling, VaeTiling, decode_tiles, encode_tiles};
pub use timestep_embedding::timestep_embedding;
pub use tokenizer::Tokenizer;
pub use weights::Weights;

use diffusion::PipelineError;

/// Converts a tensor library error. This is the only place that does.
pub(crate) fn device_error(err: candle_core::Error) -> PipelineError {
    if is_out_of_memory(&err) { PipelineError::OutOfMemory } else { PipelineError::Model(err.to_string()) }
}

/// Whether the device ran out of memory. Candle, the CUDA driver and cuBLAS report it only in the message text.
fn is_out_of_memory(err: &candle_core::Error) -> bool {
    let message = err.to_string();
    ["out of memory", "OUT_OF_MEMORY", "STATUS_ALLOC_FAILED"].iter().any(|words| message.contains(words))
}

/// A result whose default error is the tensor library's.
pub(crate) type Result<T, E = candle_core::Error> = std::result::Result<T, E>;
