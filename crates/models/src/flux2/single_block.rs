//! A single-stream block: text and image in one sequence, attention and feed-forward network in parallel.
//!
//! Port of `Flux2SingleTransformerBlock` and `Flux2ParallelSelfAttnProcessor`:
//! <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/models/transformers/transformer_flux2.py#L807>

use std::sync::Arc;

use candle_core::Tensor;
use kernels::{AttentionStream, JointAttention, Linear, Products, RopeTable, RowLayout, parameters, swiglu};

use super::block::{BlockContext, head_norm};
use super::config::TransformerConfig;
use crate::Result;
use crate::dit::Streams;
use crate::error::LoadError;
use crate::scope::Scope;

/// A single-stream block; no layer has a bias.
///
/// The checkpoint has one input layer and one output layer for both halves. They are split at loading, so that no step
/// has to copy either half out of or into a wider matrix.
pub struct SingleBlock {
    /// The queries, keys and values part of `attn.to_qkv_mlp_proj`.
    pub to_qkv: Linear,
    /// The gate and up part of `attn.to_qkv_mlp_proj`.
    pub to_mlp: Linear,
    norm_q: Tensor,
    norm_k: Tensor,
    /// The attention part of `attn.to_out`.
    attn_out: Linear,
    /// The feed-forward part of `attn.to_out`.
    mlp_out: Linear,
    num_heads: usize,
    products: Products,
    eps: f64,
}

parameters!(SingleBlock { to_qkv, to_mlp, norm_q, norm_k, attn_out, mlp_out });

impl SingleBlock {
    pub(super) fn load(config: &TransformerConfig, scope: &Scope<'_>) -> Result<Self, LoadError> {
        let (dim, hidden_dim) = (config.dim(), config.mlp_hidden_dim());
        let attn = scope.pp("attn");
        let part = |weight: &Tensor, axis: usize, start: usize, len: usize| {
            attn.layer(&[(&attn.device(weight.narrow(axis, start, len))?, None)])
        };
        // Each whole tensor is freed before the next one is read, so that the weights are never held twice.
        let (to_qkv, to_mlp) = {
            let whole = attn.get((3 * dim + 2 * hidden_dim, dim), "to_qkv_mlp_proj.weight")?;
            (part(&whole, 0, 0, 3 * dim)?, part(&whole, 0, 3 * dim, 2 * hidden_dim)?)
        };
        let (attn_out, mlp_out) = {
            let whole = attn.get((dim, dim + hidden_dim), "to_out.weight")?;
            (part(&whole, 1, 0, dim)?, part(&whole, 1, dim, hidden_dim)?)
        };
        Ok(SingleBlock {
            to_qkv,
            to_mlp,
            norm_q: head_norm(config, &attn, "norm_q")?,
            norm_k: head_norm(config, &attn, "norm_k")?,
            attn_out,
            mlp_out,
            num_heads: config.num_attention_heads,
            products: attn.precision().products(),
            eps: config.eps,
        })
    }

    pub(super) fn forward(&self, streams: &Streams, context: &BlockContext) -> Result<Streams> {
        let BlockContext { single, joint_rows, no_rows, rope, .. } = context;
        let hidden = &streams.hidden_states;
        let normed = single.norm(0, hidden, joint_rows)?;
        let gate = single.gate(0)?;
        let attended = self.attend(&normed, joint_rows, no_rows, rope)?;
        let inner = swiglu(&self.to_mlp.forward(&normed)?)?;
        let hidden = self.attn_out.forward_gated(&attended, hidden, &gate, joint_rows)?;
        let hidden = self.mlp_out.forward_gated(&inner, &hidden, &gate, joint_rows)?;
        Ok(Streams { hidden_states: hidden, encoder_hidden_states: None })
    }

    /// Attends every token to all tokens of its row. Returns `[tokens, dim]`.
    fn attend(
        &self,
        normed: &Tensor,
        rows: &RowLayout,
        no_rows: &RowLayout,
        rope: &[Arc<RopeTable>],
    ) -> Result<Tensor> {
        let qkv = self.to_qkv.forward(normed)?;
        let stream = |qkv, rows| AttentionStream { qkv, norm_q: &self.norm_q, norm_k: &self.norm_k, rows };
        // The sequence already holds the text, so the joint attention gets an empty text stream.
        let nothing = qkv.narrow(0, 0, 0)?;
        let (text, image) = (stream(&nothing, no_rows), stream(&qkv, rows));
        let SingleBlock { num_heads, eps, products, .. } = *self;
        let (_, attended) = JointAttention { text, image, rope, num_heads, eps, products }.forward()?;
        Ok(attended)
    }
}
