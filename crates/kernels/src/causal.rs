//! Causal attention: what a language model used as a text encoder needs.

use candle_core::{DType, Result, Tensor, bail};

use crate::avx2::attention::causal;
use crate::dispatch::{self, F32, avx2};

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
    if num_heads == 0 || num_kv_heads == 0 || dim % num_heads != 0 || !num_heads.is_multiple_of(num_kv_heads) {
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
    if let Some(avx2) = avx2()
        && head_dim.is_multiple_of(16)
        && let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?)
        && let (cos, sin) = (cos.to_dtype(DType::F32)?.contiguous()?, sin.to_dtype(DType::F32)?.contiguous()?)
        && let (Some(q), Some(k), Some(v)) = (F32::of(&q), F32::of(&k), F32::of(&v))
        && let (Some(cos), Some(sin)) = (F32::of(&cos), F32::of(&sin))
    {
        let inputs = Causal { q: &q, k: &k, v: &v, cos: &cos, sin: &sin, num_heads, num_kv_heads, head_dim };
        return dispatch::tensor(causal(avx2, inputs), (tokens, dim));
    }
    causal_attention_reference(q, k, v, cos, sin, num_heads, num_kv_heads)
}

/// The numbers of a causal attention.
#[derive(Clone, Copy)]
pub(crate) struct Causal<'a> {
    pub(crate) q: &'a [f32],
    pub(crate) k: &'a [f32],
    pub(crate) v: &'a [f32],
    pub(crate) cos: &'a [f32],
    pub(crate) sin: &'a [f32],
    pub(crate) num_heads: usize,
    pub(crate) num_kv_heads: usize,
    pub(crate) head_dim: usize,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, randn};
    use crate::with_reference;

    struct Inputs {
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cos: Tensor,
        sin: Tensor,
        heads: (usize, usize),
    }

    impl Inputs {
        fn new(tokens: usize, heads: (usize, usize), head_dim: usize) -> Self {
            let angles = randn(4, (tokens, head_dim / 2));
            let kv_dim = heads.1 * head_dim;
            Inputs {
                q: randn(1, (tokens, heads.0 * head_dim)),
                k: randn(2, (tokens, kv_dim)),
                v: randn(3, (tokens, kv_dim)),
                cos: angles.cos().unwrap(),
                sin: angles.sin().unwrap(),
                heads,
            }
        }

        fn forward(&self) -> Tensor {
            causal_attention(&self.q, &self.k, &self.v, &self.cos, &self.sin, self.heads.0, self.heads.1).unwrap()
        }
    }

    #[test]
    fn kernels_agree_with_candle() {
        for (tokens, heads, head_dim) in
            [(1, (1, 1), 16), (37, (6, 2), 32), (101, (4, 4), 64), (600, (4, 2), 128), (9, (2, 1), 24)]
        {
            let inputs = Inputs::new(tokens, heads, head_dim);
            let name = format!("causal {tokens} {heads:?}x{head_dim}");
            assert_close(&name, &inputs.forward(), &with_reference(|| inputs.forward()), 3e-6);
        }
    }

    #[test]
    fn a_token_does_not_see_its_future() {
        let long = Inputs::new(70, (4, 2), 32);
        let of_start = |t: &Tensor| t.narrow(0, 0, 50).unwrap();
        let short = Inputs {
            q: of_start(&long.q),
            k: of_start(&long.k),
            v: of_start(&long.v),
            cos: of_start(&long.cos),
            sin: of_start(&long.sin),
            heads: long.heads,
        };
        assert_close("start", &of_start(&long.forward()), &short.forward(), 1e-6);
        with_reference(|| assert_close("start", &of_start(&long.forward()), &short.forward(), 1e-6));
    }

    #[test]
    fn the_first_token_sees_itself_only() {
        // Its own value, once for each query head of the group.
        let inputs = Inputs::new(5, (4, 2), 16);
        let value = inputs.v.narrow(0, 0, 1).unwrap().reshape((2, 1, 16)).unwrap();
        let expected = value.broadcast_as((2, 2, 16)).unwrap().reshape((1, 64)).unwrap();
        for given in [inputs.forward(), with_reference(|| inputs.forward())] {
            assert_close("first token", &given.narrow(0, 0, 1).unwrap(), &expected, 1e-6);
        }
    }
}
