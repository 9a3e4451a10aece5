//! The Qwen decoders used as text encoders: Qwen2.5-VL's language model, and Qwen3.
//!
//! References: <https://github.com/huggingface/transformers/blob/v5.0.0/src/transformers/models/qwen2_5_vl/modeling_qwen2_5_vl.py>,
//! <https://github.com/huggingface/transformers/blob/v5.0.0/src/transformers/models/qwen3/modeling_qwen3.py>
//!
//! # Architecture
//! Pre-norm blocks: RMSNorm, grouped-query causal attention with half-split RoPE, RMSNorm, SwiGLU. Qwen2.5-VL has
//! biases on q, k and v, and rotates three sections of a head by three positions (M-RoPE). Qwen3 instead has an RMSNorm
//! on each head's queries and keys, and a head width that is configured separately.
//!
//! No text is generated, so the output head is never loaded, and neither are layers after the last hidden state used.

mod config;
mod decoder;
mod positions;

pub use config::DecoderConfig;
pub use decoder::{Decoder, DecoderLayer, Sequence};
pub use positions::Positions;
