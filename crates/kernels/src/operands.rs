//! What operations are given, as tensors: plain values below both the operations and the backends.

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
    /// One table a row: the positions of its text, then of its image.
    pub rope: &'a [Arc<RopeTable>],
    /// Heads of `dim / num_heads` features.
    pub num_heads: usize,
    /// Of the RMSNorms.
    pub eps: f64,
    /// What f32 numbers may be rounded to on their way into its products.
    pub products: Products,
}

/// What the f32 operands of a product may be rounded to where that makes it faster. Sums are f32, and so is all that is
/// no product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Products {
    /// Nothing.
    F32,
    /// bf16.
    Bf16,
}

/// Causal attention of one sequence with half-split RoPE (Hugging Face's `rotate_half`),
/// grouped key and value heads and an f32 softmax.
#[derive(Clone, Copy, Debug)]
pub struct CausalAttention<'a> {
    /// `[tokens, (num_heads + 2 * num_kv_heads) * head_dim]`: queries, keys, values side by side.
    pub qkv: &'a Tensor,
    /// RMSNorms of every head's queries and keys, ahead of the rotation.
    pub norms: Option<HeadNorms<'a>>,
    /// `[tokens, head_dim / 2]`, the cosines of each token's angles.
    pub cos: &'a Tensor,
    /// `[tokens, head_dim / 2]`, the sines.
    pub sin: &'a Tensor,
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads, each shared by `num_heads / num_kv_heads` query heads.
    pub num_kv_heads: usize,
    /// Tokens ahead of the padding, at least 1: no query sees a key from there on. Padding has
    /// queries all the same, which see every valid key.
    pub valid: usize,
}

/// Weights `[head_dim]` of the RMSNorms of a head's queries and keys.
#[derive(Clone, Copy, Debug)]
pub struct HeadNorms<'a> {
    /// Of the queries.
    pub q: &'a Tensor,
    /// Of the keys.
    pub k: &'a Tensor,
    /// Added to the mean squares.
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
    /// Which tokens see each other.
    pub rows: &'a RowLayout,
    /// Heads of `dim / num_heads` features.
    pub num_heads: usize,
}

/// `(x - mean) / sqrt(variance + eps) * weight + bias`, in f32, with the mean and the variance of
/// all pixels and the channels of a group: <https://arxiv.org/abs/1803.08494>.
#[derive(Clone, Debug)]
pub struct GroupNorm {
    /// `[c]`, f32.
    pub(crate) weight: Tensor,
    /// `[c]`, f32.
    pub(crate) bias: Tensor,
    pub(crate) num_groups: usize,
    pub(crate) eps: f64,
}

/// What is done to a linear map's sums before they are stored.
#[derive(Clone, Copy)]
pub(crate) enum Epilogue<'a> {
    /// Nothing.
    None,
    /// The tanh approximation of GELU.
    Gelu,
    /// `residual + gate[row] * sum`: `residual` is `[tokens, out]`, `gate` is `[num_rows, out]`.
    Gated { residual: &'a Tensor, gate: &'a Tensor, rows: &'a RowLayout },
}

/// What is done to a picture on its way into a convolution.
#[derive(Clone, Copy)]
pub(crate) enum ConvInput<'a> {
    /// Nothing.
    Plain,
    /// `silu(channel_norm(x, gamma))`
    NormSilu(&'a Tensor),
    /// `silu(group_norm(x))`
    GroupNormSilu(&'a GroupNorm),
    /// Every pixel twice both ways.
    Upsampled,
}

/// A request's two passes, `[tokens, channels]`, and how they become one velocity.
#[derive(Clone, Copy)]
pub struct Guided<'t> {
    /// The pass with the prompt.
    pub cond: &'t Tensor,
    /// The pass without it.
    pub uncond: &'t Tensor,
    /// What their difference is multiplied by.
    pub scale: f64,
    /// Whether each token is rescaled to the length that it has in `cond`, which keeps a large scale from burning the
    /// picture in:
    /// <https://github.com/huggingface/diffusers/blob/v0.37.0/src/diffusers/pipelines/qwenimage/pipeline_qwenimage.py#L711>.
    pub keeps_length: bool,
}

/// The weights of a sum, and what is weighted: a forecast from stored derivatives, or a step along a velocity.
pub type Terms<'t> = Vec<(f64, &'t Tensor)>;
