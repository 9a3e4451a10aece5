//! The visual part of Qwen2.5-VL, for pipelines that edit pictures: image processor and vision tower. The language
//! model is [`crate::qwen_decoder`].
//!
//! Reference: <https://github.com/huggingface/transformers/blob/v5.0.0/src/transformers/models/qwen2_5_vl/modeling_qwen2_5_vl.py>
//!
//! # Architecture
//! A picture is cut into patches of 14 x 14 pixels, ordered by the 2 x 2 blocks that become one token of the language
//! model. Most blocks of the tower attend within windows of 8 x 8 patches, a few within the whole picture.

mod config;
mod grid;
mod processor;
mod vision;

pub use config::VisionConfig;
pub use grid::{Grid, PatchLayout};
pub use processor::ImageProcessor;
pub use vision::{PatchMerger, VisionBlock, VisionTower};
