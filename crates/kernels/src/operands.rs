//! Operands of the operations: plain values that both the operations and the backends depend on.

use std::sync::Arc;

use candle_core::Tensor;

use crate::{RopeTable, RowLayout};

/// One of the two token streams of a [`JointAttention`].
#[derive(Clone, Copy, Debug)]
pub struct AttentionStream<'a> {
    /// `[tokens, 3 * dim]`: queries, keys, values side by side.
    pub qkv: &'a Tensor,
    /// `[head_dim]`, the weight of the queries' RMSNorm.
    pub norm_q: &'a Tensor,
    /// `[head_dim]`, the weight of the keys' RMSNorm.
    pub norm_k: &'a Tensor,
    /// Which tokens belong to which row.
    pub rows: &'a RowLayout,
}

/// Attention of every row over its own text and image tokens, with RMSNorm of each head's
/// queries and keys and interleaved RoPE in f32:
/// <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/models/transformers/transformer_qwenimage.py#L473>.
#[derive(Clone, Copy, Debug)]
pub struct JointAttention<'a> {
    /// The prompt's tokens: first in the joint order. A row may have none.
    pub text: AttentionStream<'a>,
    /// The picture's tokens.
    pub image: AttentionStream<'a>,
    /// One table per row: the positions of its text, then of its image.
    pub rope: &'a [Arc<RopeTable>],
    /// Heads of `dim / num_heads` features.
    pub num_heads: usize,
    /// Epsilon of the RMSNorms.
    pub eps: f64,
    /// The type to which f32 operands of the products may be rounded.
    pub products: Products,
}

/// The type to which f32 operands of a product may be rounded if that makes it faster. Sums and everything that is not
/// a product stay in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Products {
    /// No rounding.
    F32,
    /// Rounding to bf16.
    Bf16,
}

/// Causal attention of one sequence with half-split RoPE (Hugging Face's `rotate_half`),
/// grouped key and value heads and an f32 softmax.
#[derive(Clone, Copy, Debug)]
pub struct CausalAttention<'a> {
    /// `[tokens, (num_heads + 2 * num_kv_heads) * head_dim]`: queries, keys, values side by side.
    pub qkv: &'a Tensor,
    /// RMSNorms of every head's queries and keys, before the rotation.
    pub norms: Option<HeadNorms<'a>>,
    /// `[tokens, head_dim / 2]`, the cosines of each token's angles.
    pub cos: &'a Tensor,
    /// `[tokens, head_dim / 2]`, the sines.
    pub sin: &'a Tensor,
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads, each shared by `num_heads / num_kv_heads` query heads.
    pub num_kv_heads: usize,
    /// Tokens before the padding, at least 1. No query sees a key of the padding. The padding has queries too, which
    /// see every valid key.
    pub valid: usize,
}

/// Weights `[head_dim]` of the RMSNorms of a head's queries and keys.
#[derive(Clone, Copy, Debug)]
pub struct HeadNorms<'a> {
    /// The queries' weight.
    pub q: &'a Tensor,
    /// The keys' weight.
    pub k: &'a Tensor,
    /// Epsilon, added to the mean squares.
    pub eps: f64,
}

/// Attention of every row over all of its own tokens, with half-split RoPE (Hugging Face's
/// `rotate_half`) and an f32 softmax:
/// <https://github.com/huggingface/transformers/blob/v5.0.0/src/transformers/models/qwen2_5_vl/modeling_qwen2_5_vl.py>,
/// `Qwen2_5_VLVisionAttention`.
#[derive(Clone, Copy, Debug)]
pub struct SelfAttention<'a> {
    /// `[tokens, 3 * dim]`: queries, keys, values side by side.
    pub qkv: &'a Tensor,
    /// `[tokens, head_dim / 2]`, the cosines of each token's angles.
    pub cos: &'a Tensor,
    /// `[tokens, head_dim / 2]`, the sines.
    pub sin: &'a Tensor,
    /// The rows; tokens of one row see each other.
    pub rows: &'a RowLayout,
    /// Heads of `dim / num_heads` features.
    pub num_heads: usize,
}

/// `(x - mean) / sqrt(variance + eps) * weight + bias` in f32, with mean and variance over all pixels and the channels
/// of a group: <https://arxiv.org/abs/1803.08494>.
#[derive(Clone, Debug)]
pub struct GroupNorm {
    /// `[c]`, f32.
    pub(crate) weight: Tensor,
    /// `[c]`, f32.
    pub(crate) bias: Tensor,
    pub(crate) num_groups: usize,
    pub(crate) eps: f64,
}

/// The operation on a linear map's sums before they are stored.
#[derive(Clone, Copy)]
pub(crate) enum Epilogue<'a> {
    /// No operation.
    None,
    /// The tanh approximation of GELU.
    Gelu,
    /// `residual + gate[row] * sum`: `residual` is `[tokens, out]`, `gate` is `[num_rows, out]`.
    Gated { residual: &'a Tensor, gate: &'a Tensor, rows: &'a RowLayout },
}

/// The operation on a picture as it enters a convolution.
#[derive(Clone, Copy)]
pub(crate) enum ConvInput<'a> {
    /// No operation.
    Plain,
    /// `silu(channel_norm(x, gamma))`
    NormSilu(&'a Tensor),
    /// `silu(group_norm(x))`
    GroupNormSilu(&'a GroupNorm),
    /// Nearest-neighbour upsampling to twice the height and the width.
    Upsampled,
}

/// A request's two passes, `[tokens, channels]`, and the guidance that combines them into one velocity.
#[derive(Clone, Copy)]
pub struct Guided<'t> {
    /// The pass with the prompt.
    pub cond: &'t Tensor,
    /// The pass without it.
    pub uncond: &'t Tensor,
    /// The factor of the difference of the passes.
    pub scale: f64,
    /// Whether each token is rescaled to its length in `cond`, which keeps a large scale from oversaturating the
    /// picture:
    /// <https://github.com/huggingface/diffusers/blob/v0.37.0/src/diffusers/pipelines/qwenimage/pipeline_qwenimage.py#L711>.
    pub keeps_length: bool,
}

/// Weights and tensors of a sum: a forecast from stored derivatives, or a step along a velocity.
pub type WeightedTensors<'t> = Vec<(f64, &'t Tensor)>;
