//! Full attention: the joint attention of a dual-stream block on a ragged batch, and the plain attention of a VAE or a
//! vision tower.

use std::ops::Range;

use candle_core::{D, DType, Result, Tensor, bail};

use crate::devices::backend;
use crate::norm::rms_norm_reference;
use crate::{AttentionStream, JointAttention, RopeTable, check_interrupt};

/// The largest number of scores held at a time. Longer sequences are computed in blocks of queries. This is less than a
/// VAE's decoder holds for any picture; its widest heads have no kernel on a GPU.
const MAX_SCORES: usize = 1 << 23;

impl JointAttention<'_> {
    /// The attended values of the text, `[text tokens, dim]`, and of the image.
    ///
    /// # Errors
    /// A shape does not fit.
    pub fn forward(&self) -> Result<(Tensor, Tensor)> {
        self.check()?;
        match backend(self.image.qkv.device()).joint_attention(self)? {
            Some(attended) => Ok(attended),
            None => self.forward_reference(),
        }
    }

    fn head_dim(&self) -> Result<usize> {
        Ok(self.image.qkv.dim(1)? / 3 / self.num_heads.max(1))
    }

    fn check(&self) -> Result<()> {
        let num_rows = self.image.rows.num_rows();
        if self.text.rows.num_rows() != num_rows || self.rope.len() != num_rows {
            let given = (self.text.rows.num_rows(), self.rope.len());
            bail!("text and rope must have the {num_rows} rows of the image. Given: {given:?}")
        }
        let head_dim = self.head_dim()?;
        for (name, stream) in [("text", self.text), ("image", self.image)] {
            let expected = [stream.rows.total(), 3 * head_dim * self.num_heads];
            if stream.qkv.dims() != expected {
                bail!("the {name}'s qkv must be {expected:?}. Given: {:?}", stream.qkv.dims())
            }
            for weight in [stream.norm_q, stream.norm_k] {
                if weight.dims() != [head_dim] {
                    bail!("the {name}'s norm weights must be [{head_dim}]. Given: {:?}", weight.dims())
                }
            }
        }
        for (row, table) in self.rope.iter().enumerate() {
            let expected = [self.text.rows.length(row) + self.image.rows.length(row), head_dim / 2];
            if table.cos().dims() != expected {
                bail!("rope of row {row} must be {expected:?}. Given: {:?}", table.cos().dims())
            }
        }
        Ok(())
    }

    fn forward_reference(&self) -> Result<(Tensor, Tensor)> {
        let (mut texts, mut images) = (Vec::new(), Vec::new());
        for (row, table) in self.rope.iter().enumerate() {
            let (text, image) = (self.text.rows.range(row), self.image.rows.range(row));
            let attended = self.row_reference(&text, &image, table)?;
            texts.push(attended.narrow(0, 0, text.len())?);
            images.push(attended.narrow(0, text.len(), image.len())?);
        }
        Ok((concatenate(texts, self.text.qkv)?, concatenate(images, self.image.qkv)?))
    }

    /// Attended values of one row, `[text + image tokens, dim]`.
    fn row_reference(&self, text: &Range<usize>, image: &Range<usize>, table: &RopeTable) -> Result<Tensor> {
        let streams = [(self.text, text), (self.image, image)];
        let joint = |part: usize| -> Result<Tensor> {
            let parts = streams.iter().filter(|(_, tokens)| !tokens.is_empty());
            let parts = parts.map(|(stream, tokens)| self.part_reference(stream, tokens, part));
            // [tokens, heads, head_dim] to [heads, tokens, head_dim]
            Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)?.transpose(0, 1)?.contiguous()
        };
        if text.len() + image.len() == 0 {
            return Tensor::zeros((0, self.image.qkv.dim(1)? / 3), self.image.qkv.dtype(), self.image.qkv.device());
        }
        let dtype = self.image.qkv.dtype();
        let rotated = |t: Tensor| -> Result<Tensor> {
            candle_nn::rotary_emb::rope_i(&t.unsqueeze(0)?, table.cos(), table.sin())?.squeeze(0)?.to_dtype(dtype)
        };
        heads_reference(&rotated(joint(0)?)?, &rotated(joint(1)?)?, &joint(2)?.to_dtype(dtype)?)
    }

    /// Queries (0), keys (1) or values (2) of some tokens as `[tokens, heads, head_dim]` in f32. Queries and keys are
    /// normalised.
    fn part_reference(&self, stream: &AttentionStream, tokens: &Range<usize>, part: usize) -> Result<Tensor> {
        let (head_dim, dim) = (self.head_dim()?, stream.qkv.dim(1)? / 3);
        let part_of = stream.qkv.narrow(0, tokens.start, tokens.len())?.narrow(1, part * dim, dim)?;
        let heads = part_of.reshape((tokens.len(), self.num_heads, head_dim))?.to_dtype(DType::F32)?;
        match part {
            0 => rms_norm_reference(&heads, stream.norm_q, self.eps),
            1 => rms_norm_reference(&heads, stream.norm_k, self.eps),
            _ => Ok(heads),
        }
    }
}

/// Attention of `[tokens, heads * head_dim]` queries over keys and values of the same width, scaled by `1 /
/// sqrt(head_dim)`, without a mask. The keys may have another number of tokens than the queries.
///
/// # Errors
/// A shape does not fit.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, num_heads: usize) -> Result<Tensor> {
    let (_, dim) = q.dims2()?;
    if num_heads == 0 || dim % num_heads != 0 {
        bail!("num_heads must divide the {dim} features. Given: {num_heads}")
    }
    let keys = k.dim(0)?;
    if k.dims() != [keys, dim] || v.dims() != [keys, dim] {
        bail!("k and v must be [{keys}, {dim}]. Given: {:?}, {:?}", k.dims(), v.dims())
    }
    match backend(q.device()).attention(q, k, v, num_heads)? {
        Some(attended) => Ok(attended),
        None => attention_reference(q, k, v, num_heads),
    }
}

fn attention_reference(q: &Tensor, k: &Tensor, v: &Tensor, num_heads: usize) -> Result<Tensor> {
    let heads = |t: &Tensor| -> Result<Tensor> {
        let (tokens, dim) = t.dims2()?;
        t.reshape((tokens, num_heads, dim / num_heads))?.transpose(0, 1)?.contiguous()
    };
    heads_reference(&heads(q)?, &heads(k)?, &heads(v)?)
}

/// Attention of `[heads, tokens, head_dim]` operands to `[tokens, heads * head_dim]`, with a softmax in f32.
pub(crate) fn heads_reference(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let (num_heads, queries, head_dim) = q.dims3()?;
    let keys = k.t()?;
    let block = (MAX_SCORES / (num_heads * k.dim(1)?)).clamp(1, queries);
    let mut attended = Vec::new();
    for start in (0..queries).step_by(block) {
        check_interrupt()?;
        let scores = q.narrow(1, start, block.min(queries - start))?.matmul(&keys)?;
        let scores = (scores.to_dtype(DType::F32)? * (1.0 / (head_dim as f64).sqrt()))?;
        let weights = candle_nn::ops::softmax_last_dim(&scores)?.to_dtype(v.dtype())?;
        attended.push(weights.matmul(v)?);
    }
    Tensor::cat(&attended, 1)?.transpose(0, 1)?.flatten_from(D::Minus2)
}

/// Concatenates the rows. The result is empty if every row is.
fn concatenate(parts: Vec<Tensor>, qkv: &Tensor) -> Result<Tensor> {
    let parts: Vec<_> = parts.into_iter().filter(|part| part.dims()[0] > 0).collect();
    if parts.is_empty() {
        return Tensor::zeros((0, qkv.dim(1)? / 3), qkv.dtype(), qkv.device());
    }
    Tensor::cat(&parts, 0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use candle_core::Device;

    use super::*;
    use crate::cpu::sets::current_tiles;
    use crate::testing::{assert_close, numbers, on_each_set, randn};
    use crate::{Products, RowLayout, with_reference};

    /// Inputs of a joint attention over rows of some text and image tokens.
    struct Inputs {
        qkv: [Tensor; 2],
        norms: [Tensor; 4],
        rows: [RowLayout; 2],
        rope: Vec<Arc<RopeTable>>,
        num_heads: usize,
        products: Products,
    }

    impl Inputs {
        fn new(text: &[usize], image: &[usize], num_heads: usize, head_dim: usize) -> Self {
            let rows = [RowLayout::new(text), RowLayout::new(image)];
            let qkv = [0, 1].map(|i| randn(1 + i as u64, (rows[i].total(), 3 * num_heads * head_dim)));
            let norms = [3, 4, 5, 6].map(|seed| randn(seed, head_dim));
            let rope = text.iter().zip(image).enumerate().map(|(row, (text, image))| {
                let angles = randn(10 + row as u64, (text + image, head_dim / 2));
                Arc::new(RopeTable::new(&angles.cos().unwrap(), &angles.sin().unwrap()).unwrap())
            });
            Inputs { rope: rope.collect(), qkv, norms, rows, num_heads, products: Products::F32 }
        }

        /// The inputs of one row alone.
        fn row(&self, row: usize) -> Inputs {
            let range = |i: usize| self.rows[i].range(row);
            let qkv = [0, 1].map(|i| self.qkv[i].narrow(0, range(i).start, range(i).len()).unwrap());
            let rows = [0, 1].map(|i| RowLayout::new(&[range(i).len()]));
            let rope = vec![self.rope[row].clone()];
            Inputs { qkv, norms: self.norms.clone(), rows, rope, ..*self }
        }

        fn joint(&self) -> JointAttention<'_> {
            let stream = |i: usize| AttentionStream {
                qkv: &self.qkv[i],
                norm_q: &self.norms[2 * i],
                norm_k: &self.norms[2 * i + 1],
                rows: &self.rows[i],
            };
            let (text, image) = (stream(0), stream(1));
            let (num_heads, products) = (self.num_heads, self.products);
            JointAttention { text, image, rope: &self.rope, num_heads, eps: 1e-6, products }
        }

        fn forward(&self) -> [Tensor; 2] {
            self.joint().forward().unwrap().into()
        }
    }

    #[test]
    fn joint_attention_agrees_with_candle() {
        on_each_set(|_| {
            let cases: [(&[usize], &[usize], usize, usize); 6] = [
                (&[18, 11], &[64, 64], 5, 32),
                (&[1], &[1], 1, 16),
                (&[7, 0, 3], &[20, 49, 0], 3, 64),
                (&[5], &[543], 2, 128),
                (&[0, 0], &[9, 5], 2, 16),
                (&[4, 3], &[9, 5], 2, 24),
            ];
            for (text, image, num_heads, head_dim) in cases {
                let mut inputs = Inputs::new(text, image, num_heads, head_dim);
                let expected = with_reference(|| inputs.forward());
                let rounded = head_dim % 16 == 0 && current_tiles().is_some_and(|tiles| tiles.bf16.is_some());
                for (products, tolerance) in
                    [(Products::F32, 3e-6), (Products::Bf16, if rounded { 1e-2 } else { 3e-6 })]
                {
                    inputs.products = products;
                    for ((given, expected), stream) in inputs.forward().iter().zip(&expected).zip(["text", "image"]) {
                        let name = format!("{stream} {text:?} {image:?} {num_heads}x{head_dim} {products:?}");
                        assert_close(&name, given, expected, tolerance);
                    }
                }
                let in_f32 = Inputs { products: Products::F32, ..inputs.row(0) }.forward();
                assert_eq!(numbers(&inputs.row(0).forward()[1]) != numbers(&in_f32[1]), rounded, "{text:?} {image:?}");
            }
        });
    }

    #[test]
    fn a_row_does_not_depend_on_its_company() {
        on_each_set(|_| {
            for products in [Products::F32, Products::Bf16] {
                let inputs = Inputs { products, ..Inputs::new(&[18, 0, 7], &[64, 600, 31], 3, 32) };
                let together = inputs.forward();
                for row in 0..3 {
                    for (i, alone) in inputs.row(row).forward().iter().enumerate() {
                        let tokens = inputs.rows[i].range(row);
                        let of_row = together[i].narrow(0, tokens.start, tokens.len()).unwrap();
                        assert_eq!(numbers(&of_row), numbers(alone), "row {row} {products:?}");
                    }
                }
            }
        });
    }

    /// One text token and one image token, one head, straight from the formulas in f64.
    #[test]
    fn two_tokens_by_hand() {
        on_each_set(|_| {
            let inputs = Inputs::new(&[1], &[1], 1, 16);
            let rows = inputs.qkv.each_ref().map(numbers);
            let norms = inputs.norms.each_ref().map(numbers);
            let (cos, sin) = (numbers(inputs.rope[0].cos()), numbers(inputs.rope[0].sin()));
            let part = |token: usize, part: usize| -> Vec<f64> {
                let x: Vec<f64> = rows[token][part * 16..][..16].iter().map(|x| f64::from(*x)).collect();
                if part == 2 {
                    return x;
                }
                let length = (x.iter().map(|x| x * x).sum::<f64>() / 16.0 + 1e-6).sqrt();
                let norm = &norms[2 * token + part];
                let y: Vec<f64> = x.iter().zip(norm).map(|(x, w)| x / length * f64::from(*w)).collect();
                let turned = (0..8).flat_map(|i| {
                    let (c, s) = (f64::from(cos[token * 8 + i]), f64::from(sin[token * 8 + i]));
                    [y[2 * i] * c - y[2 * i + 1] * s, y[2 * i + 1] * c + y[2 * i] * s]
                });
                turned.collect()
            };
            let weight = |query: usize, key: usize| -> f64 {
                (part(query, 0).iter().zip(part(key, 1)).map(|(q, k)| q * k).sum::<f64>() / 4.0).exp()
            };
            for given in [inputs.forward(), with_reference(|| inputs.forward())] {
                for (query, given) in given.iter().enumerate() {
                    let (a, b) = (weight(query, 0), weight(query, 1));
                    let values = part(0, 2).into_iter().zip(part(1, 2));
                    let expected: Vec<f32> = values.map(|(x, y)| ((a * x + b * y) / (a + b)) as f32).collect();
                    let expected = Tensor::from_vec(expected, (1, 16), &Device::Cpu).unwrap();
                    assert_close("by hand", given, &expected, 1e-6);
                }
            }
        });
    }

    #[test]
    fn half_precision_takes_the_reference() {
        on_each_set(|_| {
            let inputs = Inputs::new(&[7, 3], &[20, 9], 3, 32);
            let expected = inputs.forward();
            let half = Inputs { qkv: inputs.qkv.each_ref().map(|t| t.to_dtype(DType::BF16).unwrap()), ..inputs };
            for (given, expected) in half.forward().iter().zip(&expected) {
                assert_eq!(given.dtype(), DType::BF16);
                assert_close("bf16", given, expected, 2e-2);
            }
        });
    }

    #[test]
    fn plain_attention_agrees_with_candle() {
        on_each_set(|_| {
            for (queries, keys, num_heads, head_dim) in
                [(1, 1, 1, 16), (50, 33, 3, 32), (600, 601, 1, 96), (9, 9, 2, 20)]
            {
                let q = randn(1, (queries, num_heads * head_dim));
                let (k, v) = (randn(2, (keys, num_heads * head_dim)), randn(3, (keys, num_heads * head_dim)));
                let given = attention(&q, &k, &v, num_heads).unwrap();
                let expected = with_reference(|| attention(&q, &k, &v, num_heads)).unwrap();
                assert_close(&format!("attention {queries} {keys} {num_heads}x{head_dim}"), &given, &expected, 3e-6);
            }
        });
    }

    #[test]
    fn errors_name_what_was_given() {
        let mut inputs = Inputs::new(&[2, 3], &[4, 5], 1, 16);
        inputs.rope.swap(0, 1);
        let message = inputs.joint().forward().unwrap_err().to_string();
        assert!(message.starts_with("rope of row 0 must be [6, 8]. Given: [8, 8]"), "{message}");
    }
}
