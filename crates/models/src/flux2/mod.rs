//! FLUX.2: text to image and editing by a transformer of dual-stream, then single-stream blocks.
//!
//! Reference: diffusers' `Flux2KleinPipeline`,
//! <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/pipelines/flux2/pipeline_flux2_klein.py>

mod block;
mod config;
mod modulation;
mod rope;
mod single_block;
mod transformer;

pub use block::{Attention, Block, FeedForward};
pub use config::TransformerConfig;
pub use modulation::Modulation;
pub use rope::RopeTables;
pub use single_block::SingleBlock;
pub use transformer::{Conditioning, Transformer};
