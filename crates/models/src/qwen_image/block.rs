//! A dual-stream block: image and text have their own weights and share a joint attention.
//!
//! Port of `QwenImageTransformerBlock` and `QwenDoubleStreamAttnProcessor2_0`:
//! <https://github.com/huggingface/diffusers/blob/v0.37.0/src/diffusers/models/transformers/transformer_qwenimage.py#L376>

use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;
use kernels::{
    AttentionStream, JointAttention, Linear, LinearStack, Products, RopeTable, RowLayout, modulated_layer_norm,
    parameters,
};

use super::config::TransformerConfig;
use crate::Result;
use crate::dit::Streams;
use crate::error::LoadError;
use crate::scope::Scope;

/// Epsilon of every norm in the network.
pub(super) const NORM_EPS: f64 = 1e-6;

/// State shared by all blocks of a forward pass.
#[derive(Clone)]
pub(super) struct BlockContext {
    /// `SiLU(temb)`, `[rows, dim]`.
    pub(super) time_embed: Tensor,
    /// Image token ranges of the rows.
    pub(super) image_rows: RowLayout,
    /// Time embedding for the modulation of image tokens.
    pub(super) image_time: ImageTime,
    /// Text token ranges of the rows.
    pub(super) text_rows: RowLayout,
    /// Rotary table of each row: text positions, then image positions.
    pub(super) rope: Vec<Arc<RopeTable>>,
}

/// Time embeddings that modulate the image tokens. Normally there is one row per batch row. With `zero_cond_t` there
/// are two: the picture's tokens at their own time, and the tokens of its references (possibly none) at time 0.
#[derive(Clone)]
pub(super) struct ImageTime {
    /// `SiLU(temb)`, `[rows, dim]`.
    pub(super) time_embed: Tensor,
    /// Token ranges of the rows.
    pub(super) rows: RowLayout,
}

/// A dual-stream block without the layers of its modulation, which are in `Modulations`.
pub struct Block {
    /// The joint attention.
    pub attn: Attention,
    /// The image stream's feed-forward network.
    pub img_mlp: FeedForward,
    /// The text stream's feed-forward network.
    pub txt_mlp: FeedForward,
}

parameters!(Block { attn, img_mlp, txt_mlp });

impl Block {
    pub(super) fn load(config: &TransformerConfig, scope: &Scope<'_>) -> Result<Self, LoadError> {
        let dim = config.dim();
        Ok(Block {
            attn: Attention::load(config, &scope.pp("attn"))?,
            img_mlp: FeedForward::load(dim, &scope.pp("img_mlp"))?,
            txt_mlp: FeedForward::load(dim, &scope.pp("txt_mlp"))?,
        })
    }

    pub(super) fn forward(
        &self,
        streams: &Streams,
        [img_mod, txt_mod]: &[Modulation; 2],
        context: &BlockContext,
    ) -> Result<Streams> {
        let BlockContext { image_rows, image_time, text_rows, rope, .. } = context;
        let (hidden, encoder) = (&streams.hidden_states, streams.encoder()?);
        let img_mod_rows = &image_time.rows;

        let img_attn_in = img_mod.norm1(hidden, img_mod_rows)?;
        let txt_attn_in = txt_mod.norm1(encoder, text_rows)?;
        let (txt_attn, img_attn) = self.attn.attend((&txt_attn_in, text_rows), (&img_attn_in, image_rows), rope)?;
        let hidden = self.attn.to_out.forward_gated(&img_attn, hidden, &img_mod.gate1()?, img_mod_rows)?;
        let encoder = self.attn.to_add_out.forward_gated(&txt_attn, encoder, &txt_mod.gate1()?, text_rows)?;

        let hidden = self.img_mlp.forward_gated(&hidden, img_mod, img_mod_rows)?;
        let encoder = self.txt_mlp.forward_gated(&encoder, txt_mod, text_rows)?;
        Ok(Streams { hidden_states: hidden, encoder_hidden_states: Some(encoder) })
    }
}

/// The modulation layers of all blocks. Blocks that run in sequence share one GEMM.
pub(super) struct Modulations {
    image: LinearStack,
    text: LinearStack,
    dim: usize,
}

impl Modulations {
    /// Creates an empty stack for `num_blocks` blocks.
    pub(super) fn with_capacity(config: &TransformerConfig, num_blocks: usize) -> Self {
        let stack = || LinearStack::with_capacity(num_blocks);
        Modulations { image: stack(), text: stack(), dim: config.dim() }
    }

    /// Loads the layers of the next block.
    pub(super) fn load_next(&mut self, scope: &Scope<'_>) -> Result<(), LoadError> {
        for (stack, name) in [(&mut self.image, "img_mod.1"), (&mut self.text, "txt_mod.1")] {
            let (weight, bias) = scope.pp(name).weight_and_bias(self.dim, 6 * self.dim)?;
            scope.device(stack.push(&weight, Some(&bias)))?;
        }
        Ok(())
    }

    /// Returns the shifts, scales and gates of the image and text streams, for each of `blocks` in order.
    pub(super) fn of<'a>(
        &'a self,
        blocks: Range<usize>,
        context: &'a BlockContext,
    ) -> Result<impl Iterator<Item = Result<[Modulation; 2]>> + 'a> {
        let image = self.image.forward(&context.image_time.time_embed, blocks.clone())?;
        let text = self.text.forward(&context.time_embed, blocks)?;
        Ok(image.zip(text).map(|(image, text)| Ok([Modulation(image?), Modulation(text?)])))
    }
}

/// Six vectors per row, concatenated: shift, scale and gate of the attention, then of the feed-forward network.
pub struct Modulation(pub Tensor);

impl Modulation {
    /// Norms and modulates the input of the attention, `[tokens, dim]`.
    ///
    /// # Errors
    /// The device fails.
    pub fn norm1(&self, x: &Tensor, rows: &RowLayout) -> Result<Tensor> {
        modulated_layer_norm(x, &self.chunk(0)?, &self.chunk(1)?, rows, NORM_EPS)
    }

    /// Norms and modulates the input of the feed-forward network, `[tokens, dim]`.
    ///
    /// # Errors
    /// The device fails.
    pub fn norm2(&self, x: &Tensor, rows: &RowLayout) -> Result<Tensor> {
        modulated_layer_norm(x, &self.chunk(3)?, &self.chunk(4)?, rows, NORM_EPS)
    }

    fn gate1(&self) -> Result<Tensor> {
        self.chunk(2)
    }

    fn gate2(&self) -> Result<Tensor> {
        self.chunk(5)
    }

    fn chunk(&self, i: usize) -> Result<Tensor> {
        let dim = self.0.dim(1)? / 6;
        self.0.narrow(1, i * dim, dim)
    }
}

/// The joint attention's projections.
pub struct Attention {
    /// Image q, k and v, concatenated.
    pub to_qkv: Linear,
    /// Text q, k and v, concatenated.
    pub add_qkv_proj: Linear,
    /// RMSNorm weights of the image stream's heads, `[head_dim]`.
    pub norm_q: Tensor,
    norm_k: Tensor,
    /// RMSNorm weights of the text stream's heads, `[head_dim]`.
    pub norm_added_q: Tensor,
    norm_added_k: Tensor,
    /// The image stream's output projection.
    pub to_out: Linear,
    /// The text stream's output projection.
    pub to_add_out: Linear,
    num_heads: usize,
    products: Products,
}

parameters!(Attention { to_qkv, add_qkv_proj, norm_q, norm_k, norm_added_q, norm_added_k, to_out, to_add_out });

impl Attention {
    fn load(config: &TransformerConfig, scope: &Scope<'_>) -> Result<Self, LoadError> {
        let dim = config.dim();
        let fused = |names: &[&str]| scope.fused_linear(names, dim, &[dim; 3], true);
        let norm = |name: &str| {
            let weight = scope.pp(name).get(config.attention_head_dim, "weight")?;
            scope.device(weight.to_dtype(scope.precision().activations))
        };
        Ok(Attention {
            to_qkv: fused(&["to_q", "to_k", "to_v"])?,
            add_qkv_proj: fused(&["add_q_proj", "add_k_proj", "add_v_proj"])?,
            norm_q: norm("norm_q")?,
            norm_k: norm("norm_k")?,
            norm_added_q: norm("norm_added_q")?,
            norm_added_k: norm("norm_added_k")?,
            to_out: scope.pp("to_out.0").linear(dim, dim)?,
            to_add_out: scope.pp("to_add_out").linear(dim, dim)?,
            num_heads: config.num_attention_heads,
            products: scope.precision().products(),
        })
    }

    /// Attends text and image to each other, row by row. Returns text and image before the output projections.
    ///
    /// # Errors
    /// The device fails.
    pub fn attend(
        &self,
        (text, text_rows): (&Tensor, &RowLayout),
        (image, image_rows): (&Tensor, &RowLayout),
        rope: &[Arc<RopeTable>],
    ) -> Result<(Tensor, Tensor)> {
        let (text_qkv, image_qkv) = (self.add_qkv_proj.forward(text)?, self.to_qkv.forward(image)?);
        JointAttention {
            text: AttentionStream {
                qkv: &text_qkv,
                norm_q: &self.norm_added_q,
                norm_k: &self.norm_added_k,
                rows: text_rows,
            },
            image: AttentionStream { qkv: &image_qkv, norm_q: &self.norm_q, norm_k: &self.norm_k, rows: image_rows },
            rope,
            num_heads: self.num_heads,
            eps: NORM_EPS,
            products: self.products,
        }
        .forward()
    }
}

/// Two layers with a tanh GELU between them; the inner width is four times the outer.
pub struct FeedForward {
    proj: Linear,
    net_2: Linear,
}

parameters!(FeedForward { proj, net_2 });

impl FeedForward {
    fn load(dim: usize, scope: &Scope<'_>) -> Result<Self, LoadError> {
        Ok(FeedForward {
            proj: scope.pp("net.0.proj").linear(dim, 4 * dim)?,
            net_2: scope.pp("net.2").linear(4 * dim, dim)?,
        })
    }

    /// Returns the network's output, `[tokens, dim]`.
    ///
    /// # Errors
    /// The device fails.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.net_2.forward(&self.proj.forward_gelu(x)?)
    }

    /// Adds the gated output for `x`, normed and modulated, to `x`.
    fn forward_gated(&self, x: &Tensor, modulation: &Modulation, rows: &RowLayout) -> Result<Tensor> {
        let inner = self.proj.forward_gelu(&modulation.norm2(x, rows)?)?;
        self.net_2.forward_gated(&inner, x, &modulation.gate2()?, rows)
    }
}
