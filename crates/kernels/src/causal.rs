//! Causal attention: what a language model used as a text encoder needs.

use candle_core::{DType, Result, Tensor, bail};

/// Causal attention of one sequence with half-split RoPE (Hugging Face's `rotate_half`),
/// grouped key and value heads and an f32 softmax.
///
/// `q` is `[tokens, num_heads * head_dim]`, `k` and `v` are `[tokens, num_kv_heads *
/// head_dim]`, `cos` and `sin` are `[tokens, head_dim / 2]`; the result has the shape of `q`.
///
/// # Errors
/// A shape does not fit.
pub fn causal_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    cos: &Tensor,
    sin: &Tensor,
    num_heads: usize,
    num_kv_heads: usize,
) -> Result<Tensor> {
    let (tokens, dim) = q.dims2()?;
    if num_heads == 0 || num_kv_heads == 0 || dim % num_heads != 0 || num_heads % num_kv_heads != 0 {
        bail!("num_kv_heads must divide num_heads and that {dim}. Given: {num_kv_heads} and {num_heads}")
    }
    let head_dim = dim / num_heads;
    let of_kv = [tokens, num_kv_heads * head_dim];
    let of_rope = [tokens, head_dim / 2];
    for (name, tensor, expected) in [("k", k, of_kv), ("v", v, of_kv), ("cos", cos, of_rope), ("sin", sin, of_rope)] {
        if tensor.dims() != expected {
            bail!("{name} must be {expected:?}. Given: {:?}", tensor.dims())
        }
    }
    causal_attention_reference(q, k, v, cos, sin, num_heads, num_kv_heads)
}

fn causal_attention_reference(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    cos: &Tensor,
    sin: &Tensor,
    num_heads: usize,
    num_kv_heads: usize,
) -> Result<Tensor> {
    let (tokens, dim) = q.dims2()?;
    let (head_dim, group) = (dim / num_heads, num_heads / num_kv_heads);
    let heads = |t: &Tensor, n: usize| t.reshape((1, tokens, n, head_dim))?.transpose(1, 2)?.contiguous();
    let (cos, sin) = (cos.to_dtype(DType::F32)?.contiguous()?, sin.to_dtype(DType::F32)?.contiguous()?);
    let rotated = |t: &Tensor, n: usize| -> Result<Tensor> {
        candle_nn::rotary_emb::rope(&heads(t, n)?.to_dtype(DType::F32)?, &cos, &sin)?.to_dtype(q.dtype())
    };
    // The heads of a group share their keys: one tall matrix of queries a key head.
    let queries = rotated(q, num_heads)?.reshape((num_kv_heads, group * tokens, head_dim))?;
    let scores = queries.matmul(&rotated(k, num_kv_heads)?.squeeze(0)?.t()?)?;
    let scores = (scores.to_dtype(DType::F32)? * (1.0 / (head_dim as f64).sqrt()))?;
    let scores = scores.reshape((num_heads, tokens, tokens))?.broadcast_add(&causal_mask(tokens, q)?)?;
    let weights = candle_nn::ops::softmax_last_dim(&scores)?.to_dtype(q.dtype())?;
    let weights = weights.reshape((num_kv_heads, group * tokens, tokens))?;
    let attended = weights.matmul(&heads(v, num_kv_heads)?.squeeze(0)?)?;
    attended.reshape((num_heads, tokens, head_dim))?.transpose(0, 1)?.reshape((tokens, dim))
}

/// `[1, tokens, tokens]` in f32: 0 where a token may look, -inf in its future.
fn causal_mask(tokens: usize, like: &Tensor) -> Result<Tensor> {
    let mask = (0..tokens).flat_map(|i| (0..tokens).map(move |j| if j > i { f32::NEG_INFINITY } else { 0.0 }));
    Tensor::from_vec(mask.collect(), (1, tokens, tokens), like.device())
}
