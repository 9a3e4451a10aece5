//! Full attention: the joint attention of a dual-stream block on a ragged batch, and the
//! plain one of a VAE or a vision tower.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{D, DType, Result, Tensor, bail};

use crate::norm::rms_norm_reference;
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
/// <https://github.com/huggingface/diffusers/blob/v0.37.0/src/diffusers/models/transformers/transformer_qwenimage.py#L485>.
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
}

/// Scores that one call may hold at a time, in elements: longer sequences go through in
/// blocks of queries.
const MAX_SCORES: usize = 1 << 28;

impl JointAttention<'_> {
    /// The attended values of the text, `[text tokens, dim]`, and of the image.
    ///
    /// # Errors
    /// A shape does not fit.
    pub fn forward(&self) -> Result<(Tensor, Tensor)> {
        self.check()?;
        self.forward_reference()
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

    /// `[text + image tokens, dim]` of one row.
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

    /// Queries (0), keys (1) or values (2) of some tokens as `[tokens, heads, head_dim]` in f32,
    /// the first two normalised.
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

/// Attention of `[tokens, heads * head_dim]` queries over keys and values of the same shape
/// (or of another number of tokens), scaled by `1 / sqrt(head_dim)`, without a mask.
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
    attention_reference(q, k, v, num_heads)
}

fn attention_reference(q: &Tensor, k: &Tensor, v: &Tensor, num_heads: usize) -> Result<Tensor> {
    let heads = |t: &Tensor| -> Result<Tensor> {
        let (tokens, dim) = t.dims2()?;
        t.reshape((tokens, num_heads, dim / num_heads))?.transpose(0, 1)?.contiguous()
    };
    heads_reference(&heads(q)?, &heads(k)?, &heads(v)?)
}

/// `[heads, tokens, head_dim]` in, `[tokens, heads * head_dim]` out; softmax in f32.
fn heads_reference(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let (num_heads, queries, head_dim) = q.dims3()?;
    let keys = k.t()?;
    let block = (MAX_SCORES / (num_heads * k.dim(1)?)).clamp(1, queries);
    let mut attended = Vec::new();
    for start in (0..queries).step_by(block) {
        let scores = q.narrow(1, start, block.min(queries - start))?.matmul(&keys)?;
        let scores = (scores.to_dtype(DType::F32)? * (1.0 / (head_dim as f64).sqrt()))?;
        let weights = candle_nn::ops::softmax_last_dim(&scores)?.to_dtype(v.dtype())?;
        attended.push(weights.matmul(v)?);
    }
    Tensor::cat(&attended, 1)?.transpose(0, 1)?.flatten_from(D::Minus2)
}

/// The rows one after another; no tokens at all where every row is empty.
fn concatenate(parts: Vec<Tensor>, qkv: &Tensor) -> Result<Tensor> {
    let parts: Vec<_> = parts.into_iter().filter(|part| part.dims()[0] > 0).collect();
    if parts.is_empty() {
        return Tensor::zeros((0, qkv.dim(1)? / 3), qkv.dtype(), qkv.device());
    }
    Tensor::cat(&parts, 0)
}
