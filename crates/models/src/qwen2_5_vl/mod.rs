//! Qwen2.5-VL, the text encoder of Qwen-Image: so far its language model.
//!
//! Reference: <https://github.com/huggingface/transformers/blob/v5.0.0/src/transformers/models/qwen2_5_vl/modeling_qwen2_5_vl.py>
//!
//! # Architecture
//! A decoder of pre-norm blocks: RMSNorm, grouped-query attention with biased q, k, v and half-split
//! RoPE, RMSNorm, SwiGLU. With text alone the three axes of M-RoPE carry the same position, which makes
//! it plain RoPE.

mod config;
mod language_model;

pub use config::LanguageModelConfig;
pub use language_model::LanguageModel;
