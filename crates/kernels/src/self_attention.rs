//! Self-attention with half-split RoPE on a ragged batch: a vision tower's windows and pictures.

use candle_core::{DType, Result, Tensor, bail};

use crate::SelfAttention;
use crate::attention::heads_reference;
use crate::devices::backend;

impl SelfAttention<'_> {
    /// The attended values, `[tokens, dim]`.
    ///
    /// # Errors
    /// A shape does not fit.
    pub fn forward(&self) -> Result<Tensor> {
        let head_dim = self.check()?;
        match backend(self.qkv.device()).self_attention(self)? {
            Some(attended) => Ok(attended),
            None => self.forward_reference(head_dim),
        }
    }

    /// Checks every shape and returns the features of a head.
    fn check(&self) -> Result<usize> {
        let (tokens, width) = self.qkv.dims2()?;
        if self.num_heads == 0 || width % (6 * self.num_heads) != 0 {
            bail!("num_heads must divide a third of qkv's {width} features evenly. Given: {}", self.num_heads)
        }
        if self.rows.total() != tokens {
            bail!("rows must cover the {tokens} tokens of qkv. Given: {}", self.rows.total())
        }
        let head_dim = width / 3 / self.num_heads;
        for (name, tensor) in [("cos", self.cos), ("sin", self.sin)] {
            if tensor.dims() != [tokens, head_dim / 2] {
                bail!("{name} must be [{tokens}, {}]. Given: {:?}", head_dim / 2, tensor.dims())
            }
        }
        Ok(head_dim)
    }

    fn forward_reference(&self, head_dim: usize) -> Result<Tensor> {
        let (dim, dtype) = (self.num_heads * head_dim, self.qkv.dtype());
        let (cos, sin) = (self.cos.to_dtype(DType::F32)?.contiguous()?, self.sin.to_dtype(DType::F32)?.contiguous()?);
        let mut attended = Vec::new();
        for tokens in self.rows.iter().filter(|tokens| !tokens.is_empty()) {
            // [heads, tokens, head_dim]
            let part = |part: usize| -> Result<Tensor> {
                let part = self.qkv.narrow(0, tokens.start, tokens.len())?.narrow(1, part * dim, dim)?;
                part.reshape((tokens.len(), self.num_heads, head_dim))?.transpose(0, 1)?.contiguous()
            };
            let rotated = |part: Tensor| -> Result<Tensor> {
                let table = |t: &Tensor| t.narrow(0, tokens.start, tokens.len());
                let part = part.to_dtype(DType::F32)?.unsqueeze(0)?;
                candle_nn::rotary_emb::rope(&part, &table(&cos)?, &table(&sin)?)?.squeeze(0)?.to_dtype(dtype)
            };
            attended.push(heads_reference(&rotated(part(0)?)?, &rotated(part(1)?)?, &part(2)?)?);
        }
        if attended.is_empty() {
            return Tensor::zeros((0, dim), dtype, self.qkv.device());
        }
        Tensor::cat(&attended, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, numbers, on_each_set, randn};
    use crate::{CausalAttention, RowLayout, with_reference};

    struct Inputs {
        qkv: Tensor,
        cos: Tensor,
        sin: Tensor,
        rows: RowLayout,
        num_heads: usize,
    }

    impl Inputs {
        fn new(lengths: &[usize], num_heads: usize, head_dim: usize) -> Self {
            let rows = RowLayout::new(lengths);
            let angles = randn(2, (rows.total(), head_dim / 2));
            let qkv = randn(1, (rows.total(), 3 * num_heads * head_dim));
            Inputs { qkv, cos: angles.cos().unwrap(), sin: angles.sin().unwrap(), rows, num_heads }
        }

        /// The inputs of one row alone.
        fn row(&self, row: usize) -> Inputs {
            let tokens = self.rows.range(row);
            let of_row = |t: &Tensor| t.narrow(0, tokens.start, tokens.len()).unwrap();
            let rows = RowLayout::new(&[tokens.len()]);
            Inputs {
                qkv: of_row(&self.qkv),
                cos: of_row(&self.cos),
                sin: of_row(&self.sin),
                rows,
                num_heads: self.num_heads,
            }
        }

        fn attention(&self) -> SelfAttention<'_> {
            let Inputs { qkv, cos, sin, rows, num_heads } = self;
            SelfAttention { qkv, cos, sin, rows, num_heads: *num_heads }
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
            let cases: [(&[usize], usize, usize); 6] = [
                (&[1], 1, 16),
                (&[64, 48, 16, 12], 2, 16),
                (&[64, 0, 64, 3], 4, 80),
                (&[600, 7], 2, 64),
                (&[0, 0], 2, 16),
                (&[9, 5], 2, 24),
            ];
            for (lengths, num_heads, head_dim) in cases {
                let [given, expected] = Inputs::new(lengths, num_heads, head_dim).both();
                assert_close(&format!("self-attention {lengths:?} {num_heads}x{head_dim}"), &given, &expected, 3e-6);
            }
        });
    }

    #[test]
    fn a_row_does_not_depend_on_its_company() {
        on_each_set(|_| {
            let inputs = Inputs::new(&[64, 0, 600, 31], 3, 32);
            let together = inputs.forward();
            for row in 0..4 {
                let tokens = inputs.rows.range(row);
                let of_row = together.narrow(0, tokens.start, tokens.len()).unwrap();
                assert_eq!(numbers(&of_row), numbers(&inputs.row(row).forward()), "row {row}");
            }
        });
    }

    /// The last token of a causal attention sees every token, as all do here.
    #[test]
    fn the_last_token_is_that_of_a_causal_attention() {
        on_each_set(|_| {
            let inputs = Inputs::new(&[37], 3, 32);
            let Inputs { qkv, cos, sin, .. } = &inputs;
            let causal = CausalAttention { qkv, norms: None, cos, sin, num_heads: 3, num_kv_heads: 3, valid: 37 };
            let last = |t: &Tensor| t.narrow(0, 36, 1).unwrap();
            let expected = last(&causal.forward().unwrap());
            for given in inputs.both() {
                assert_close("last token", &last(&given), &expected, 1e-6);
            }
        });
    }

    #[test]
    fn half_precision_takes_the_reference() {
        on_each_set(|_| {
            let inputs = Inputs::new(&[20, 9], 3, 32);
            let expected = inputs.forward();
            let half = Inputs { qkv: inputs.qkv.to_dtype(DType::BF16).unwrap(), ..inputs }.forward();
            assert_eq!(half.dtype(), DType::BF16);
            assert_close("bf16", &half, &expected, 2e-2);
        });
    }

    #[test]
    fn errors_name_what_was_given() {
        let inputs = Inputs { rows: RowLayout::new(&[4, 4]), ..Inputs::new(&[9], 2, 16) };
        let message = inputs.attention().forward().unwrap_err().to_string();
        assert!(message.starts_with("rows must cover the 9 tokens of qkv. Given: 8"), "{message}");
    }
}
