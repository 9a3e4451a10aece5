//! Causal attention, as in a language model that serves as a text encoder.

use candle_core::{DType, Result, Tensor, bail};

use crate::CausalAttention;
use crate::devices::backend;
use crate::norm::rms_norm_reference;

impl CausalAttention<'_> {
    /// The attended values, `[tokens, num_heads * head_dim]`.
    ///
    /// # Errors
    /// A shape does not fit.
    pub fn forward(&self) -> Result<Tensor> {
        let head_dim = self.check()?;
        match backend(self.qkv.device()).causal_attention(self)? {
            Some(attended) => Ok(attended),
            None => self.forward_reference(head_dim),
        }
    }

    /// Checks every shape and returns the features of a head.
    fn check(&self) -> Result<usize> {
        let (tokens, width) = self.qkv.dims2()?;
        let (num_heads, num_kv_heads) = (self.num_heads, self.num_kv_heads);
        let heads = num_heads + 2 * num_kv_heads;
        if num_heads == 0 || num_kv_heads == 0 || width % heads != 0 || !num_heads.is_multiple_of(num_kv_heads) {
            bail!("num_kv_heads must divide num_heads, both the width {width}. Given: {num_kv_heads} and {num_heads}")
        }
        let head_dim = width / heads;
        for (name, tensor) in [("cos", self.cos), ("sin", self.sin)] {
            if tensor.dims() != [tokens, head_dim / 2] {
                bail!("{name} must be [{tokens}, {}]. Given: {:?}", head_dim / 2, tensor.dims())
            }
        }
        for norm in self.norms.iter().flat_map(|norms| [norms.q, norms.k]) {
            if norm.dims() != [head_dim] {
                bail!("the norms' weights must be [{head_dim}]. Given: {:?}", norm.dims())
            }
        }
        if !(1..=tokens).contains(&self.valid) {
            bail!("valid must be from 1 to the {tokens} tokens. Given: {}", self.valid)
        }
        Ok(head_dim)
    }

    fn forward_reference(&self, head_dim: usize) -> Result<Tensor> {
        let (tokens, dtype) = (self.qkv.dim(0)?, self.qkv.dtype());
        let (num_heads, num_kv_heads) = (self.num_heads, self.num_kv_heads);
        let group = num_heads / num_kv_heads;
        // [heads, tokens, head_dim] of `heads` heads from `first` on.
        let heads = |first: usize, heads: usize, norm: Option<&Tensor>| -> Result<Tensor> {
            let part = self.qkv.narrow(1, first * head_dim, heads * head_dim)?;
            let part = part.reshape((tokens, heads, head_dim))?.transpose(0, 1)?.contiguous()?;
            match (norm, self.norms) {
                (Some(weight), Some(norms)) => rms_norm_reference(&part.to_dtype(DType::F32)?, weight, norms.eps),
                _ => Ok(part),
            }
        };
        let (cos, sin) = (self.cos.to_dtype(DType::F32)?.contiguous()?, self.sin.to_dtype(DType::F32)?.contiguous()?);
        let rotated = |part: Tensor| -> Result<Tensor> {
            let part = part.to_dtype(DType::F32)?.unsqueeze(0)?;
            candle_nn::rotary_emb::rope(&part, &cos, &sin)?.squeeze(0)?.to_dtype(dtype)
        };
        // The query heads of a group share their keys, so their queries form one tall matrix per key head.
        let q = rotated(heads(0, num_heads, self.norms.map(|norms| norms.q))?)?;
        let k = rotated(heads(num_heads, num_kv_heads, self.norms.map(|norms| norms.k))?)?;
        let v = heads(num_heads + num_kv_heads, num_kv_heads, None)?;
        let scores = q.reshape((num_kv_heads, group * tokens, head_dim))?.matmul(&k.t()?)?;
        let scores = (scores.to_dtype(DType::F32)? * (1.0 / (head_dim as f64).sqrt()))?;
        let mask = causal_mask(tokens, self.valid, self.qkv)?;
        let scores = scores.reshape((num_heads, tokens, tokens))?.broadcast_add(&mask)?;
        let weights = candle_nn::ops::softmax_last_dim(&scores)?.to_dtype(dtype)?;
        let attended = weights.reshape((num_kv_heads, group * tokens, tokens))?.matmul(&v)?;
        attended.reshape((num_heads, tokens, head_dim))?.transpose(0, 1)?.reshape((tokens, num_heads * head_dim))
    }
}

/// The mask, `[1, tokens, tokens]` in f32: 0 for visible keys, -inf for future tokens and padding.
fn causal_mask(tokens: usize, valid: usize, like: &Tensor) -> Result<Tensor> {
    let hidden = |i: usize, j: usize| j > i || j >= valid;
    let mask = (0..tokens).flat_map(|i| (0..tokens).map(move |j| if hidden(i, j) { f32::NEG_INFINITY } else { 0.0 }));
    Tensor::from_vec(mask.collect(), (1, tokens, tokens), like.device())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HeadNorms;
    use crate::testing::{assert_close, numbers, on_each_set, randn};
    use crate::with_reference;

    struct Inputs {
        qkv: Tensor,
        norms: Option<[Tensor; 2]>,
        cos: Tensor,
        sin: Tensor,
        heads: (usize, usize),
        valid: usize,
    }

    impl Inputs {
        fn new(tokens: usize, heads: (usize, usize), head_dim: usize) -> Self {
            let angles = randn(4, (tokens, head_dim / 2));
            Inputs {
                qkv: randn(1, (tokens, (heads.0 + 2 * heads.1) * head_dim)),
                norms: None,
                cos: angles.cos().unwrap(),
                sin: angles.sin().unwrap(),
                heads,
                valid: tokens,
            }
        }

        fn with_norms(self) -> Self {
            let head_dim = 2 * self.cos.dim(1).unwrap();
            Inputs { norms: Some([2, 3].map(|seed| randn(seed, head_dim))), ..self }
        }

        /// The first tokens alone.
        fn start(&self, tokens: usize) -> Self {
            let of_start = |t: &Tensor| t.narrow(0, 0, tokens).unwrap();
            Inputs {
                qkv: of_start(&self.qkv),
                norms: self.norms.clone(),
                cos: of_start(&self.cos),
                sin: of_start(&self.sin),
                heads: self.heads,
                valid: tokens,
            }
        }

        fn attention(&self) -> CausalAttention<'_> {
            CausalAttention {
                qkv: &self.qkv,
                norms: self.norms.as_ref().map(|[q, k]| HeadNorms { q, k, eps: 1e-6 }),
                cos: &self.cos,
                sin: &self.sin,
                num_heads: self.heads.0,
                num_kv_heads: self.heads.1,
                valid: self.valid,
            }
        }

        fn forward(&self) -> Tensor {
            self.attention().forward().unwrap()
        }

        fn both(&self) -> [Tensor; 2] {
            [self.forward(), with_reference(|| self.forward())]
        }
    }

    #[test]
    fn kernels_agree_with_candle() {
        on_each_set(|_| {
            for (tokens, valid, heads, head_dim) in [
                (1, 1, (1, 1), 16),
                (37, 37, (6, 2), 32),
                (101, 101, (4, 4), 64),
                (600, 600, (4, 2), 128),
                (9, 9, (2, 1), 24),
                (64, 1, (4, 2), 16),
                (64, 16, (4, 2), 16),
                (130, 49, (6, 2), 32),
                (130, 129, (6, 2), 32),
                (9, 5, (2, 1), 24),
            ] {
                let plain = Inputs { valid, ..Inputs::new(tokens, heads, head_dim) };
                let normed = Inputs { valid, ..Inputs::new(tokens, heads, head_dim).with_norms() };
                for (inputs, kind) in [(plain, "causal"), (normed, "causal with norms")] {
                    let name = format!("{kind} {valid} of {tokens} {heads:?}x{head_dim}");
                    let [given, expected] = inputs.both();
                    assert_close(&name, &given, &expected, 3e-6);
                }
            }
        });
    }

    #[test]
    fn a_token_does_not_see_its_future() {
        on_each_set(|_| {
            let long = Inputs::new(70, (4, 2), 32);
            let short = long.start(50);
            for (long, short) in long.both().iter().zip(short.both()) {
                assert_close("start", &long.narrow(0, 0, 50).unwrap(), &short, 1e-6);
            }
        });
    }

    #[test]
    fn padding_is_seen_by_nobody() {
        on_each_set(|_| {
            let padded = Inputs { valid: 50, ..Inputs::new(70, (4, 2), 32).with_norms() };
            let short = padded.start(50);
            for (padded, short) in padded.both().iter().zip(short.both()) {
                assert_close("valid", &padded.narrow(0, 0, 50).unwrap(), &short, 1e-6);
            }
            // Other keys and values after the valid ones change nothing, not even for the padding.
            let (head_dim, query_width) = (32, 4 * 32);
            let noise = randn(9, (70, 2 * 2 * head_dim));
            let queries = padded.qkv.narrow(1, 0, query_width).unwrap();
            let noisy = Tensor::cat(&[&queries, &noise], 1).unwrap();
            let qkv =
                Tensor::cat(&[padded.qkv.narrow(0, 0, 50).unwrap(), noisy.narrow(0, 50, 20).unwrap()], 0).unwrap();
            let other =
                Inputs { qkv, norms: padded.norms.clone(), cos: padded.cos.clone(), sin: padded.sin.clone(), ..padded };
            for (given, expected) in other.both().iter().zip(padded.both()) {
                assert_eq!(numbers(given), numbers(&expected));
            }
        });
    }

    #[test]
    fn the_first_token_sees_itself_only() {
        on_each_set(|_| {
            // Its own value, once for each query head of the group.
            let inputs = Inputs::new(5, (4, 2), 16);
            let value = inputs.qkv.narrow(0, 0, 1).unwrap().narrow(1, 6 * 16, 2 * 16).unwrap();
            let value = value.reshape((2, 1, 16)).unwrap();
            let expected = value.broadcast_as((2, 2, 16)).unwrap().reshape((1, 64)).unwrap();
            for given in inputs.both() {
                assert_close("first token", &given.narrow(0, 0, 1).unwrap(), &expected, 1e-6);
            }
        });
    }

    #[test]
    fn a_head_s_norm_takes_its_length_away() {
        on_each_set(|_| {
            let inputs = Inputs::new(20, (4, 2), 32).with_norms();
            let factors = Tensor::cat(
                &[
                    Tensor::full(7f32, 6 * 32, &candle_core::Device::Cpu).unwrap(),
                    Tensor::ones(2 * 32, DType::F32, &candle_core::Device::Cpu).unwrap(),
                ],
                0,
            )
            .unwrap();
            let louder = Inputs { qkv: inputs.qkv.broadcast_mul(&factors).unwrap(), ..inputs.start(20) };
            for (given, expected) in louder.both().iter().zip(inputs.both()) {
                assert_close("louder", given, &expected, 1e-5);
            }
        });
    }

    #[test]
    fn errors_name_what_was_given() {
        let mut inputs = Inputs::new(5, (4, 2), 16);
        for valid in [0, 6] {
            inputs.valid = valid;
            let message = inputs.attention().forward().unwrap_err().to_string();
            assert!(message.starts_with(&format!("valid must be from 1 to the 5 tokens. Given: {valid}")), "{message}");
        }
        inputs.heads = (3, 2);
        let message = inputs.attention().forward().unwrap_err().to_string();
        assert!(message.starts_with("num_kv_heads must divide num_heads"), "{message}");
    }
}
