//! A dual-stream block: text and image have their own weights and share a joint attention.
//!
//! Port of `Flux2TransformerBlock` and `Flux2AttnProcessor`:
//! <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/models/transformers/transformer_flux2.py#L876>

use std::sync::Arc;

use candle_core::Tensor;
use kernels::{AttentionStream, JointAttention, Linear, Products, RopeTable, RowLayout, parameters, swiglu};

use super::config::TransformerConfig;
use super::modulation::Modulation;
use crate::Result;
use crate::dit::Streams;
use crate::error::LoadError;
use crate::scope::Scope;

/// State shared by all blocks of a forward pass.
#[derive(Clone)]
pub(super) struct BlockContext {
    /// Modulation of the image stream, with two sets: attention and feed-forward network.
    pub(super) double_img: Modulation,
    /// Modulation of the text stream, with the same two sets.
    pub(super) double_txt: Modulation,
    /// Modulation of the single-stream blocks, with one set.
    pub(super) single: Modulation,
    /// Image token ranges of the rows, in dual-stream blocks.
    pub(super) image_rows: RowLayout,
    /// Text token ranges of the rows, in dual-stream blocks.
    pub(super) text_rows: RowLayout,
    /// Ranges of each row's text and image tokens together, in single-stream blocks.
    pub(super) joint_rows: RowLayout,
    /// Layout of the text stream in single-stream blocks, which have none: empty ranges for all rows.
    pub(super) no_rows: RowLayout,
    /// Rotary table of each row: text positions, then image positions.
    pub(super) rope: Vec<Arc<RopeTable>>,
}

impl BlockContext {
    /// Creates the context of rows with the given text and image lengths. The modulations are those of the image
    /// stream, the text stream and the single-stream blocks.
    pub(super) fn new(
        [double_img, double_txt, single]: [Modulation; 3],
        text_lens: &[usize],
        image_lens: &[usize],
        rope: Vec<Arc<RopeTable>>,
    ) -> Self {
        let joint_lens: Vec<usize> = text_lens.iter().zip(image_lens).map(|(text, image)| text + image).collect();
        BlockContext {
            double_img,
            double_txt,
            single,
            image_rows: RowLayout::new(image_lens),
            text_rows: RowLayout::new(text_lens),
            joint_rows: RowLayout::new(&joint_lens),
            no_rows: RowLayout::new(&vec![0; joint_lens.len()]),
            rope,
        }
    }

    /// Selects the context of some rows.
    pub(super) fn select(&self, rows: &[usize]) -> Result<Self> {
        let lens = |of: &RowLayout| -> Vec<usize> { rows.iter().map(|&row| of.length(row)).collect() };
        let modulations = [self.double_img.select(rows)?, self.double_txt.select(rows)?, self.single.select(rows)?];
        let rope = rows.iter().map(|&row| self.rope[row].clone()).collect();
        Ok(BlockContext::new(modulations, &lens(&self.text_rows), &lens(&self.image_rows), rope))
    }
}

/// A dual-stream block.
pub struct Block {
    /// The joint attention.
    pub attn: Attention,
    /// The image stream's feed-forward network.
    pub ff: FeedForward,
    /// The text stream's feed-forward network.
    pub ff_context: FeedForward,
}

parameters!(Block { attn, ff, ff_context });

impl Block {
    pub(super) fn load(config: &TransformerConfig, scope: &Scope<'_>) -> Result<Self, LoadError> {
        Ok(Block {
            attn: Attention::load(config, &scope.pp("attn"))?,
            ff: FeedForward::load(config, &scope.pp("ff"))?,
            ff_context: FeedForward::load(config, &scope.pp("ff_context"))?,
        })
    }

    pub(super) fn forward(&self, streams: &Streams, context: &BlockContext) -> Result<Streams> {
        let BlockContext { double_img, double_txt, image_rows, text_rows, rope, .. } = context;
        let (hidden, encoder) = (&streams.hidden_states, streams.encoder()?);

        let img_attn_in = double_img.norm(0, hidden, image_rows)?;
        let txt_attn_in = double_txt.norm(0, encoder, text_rows)?;
        let (txt_attn, img_attn) = self.attn.attend((&txt_attn_in, text_rows), (&img_attn_in, image_rows), rope)?;
        let hidden = self.attn.to_out.forward_gated(&img_attn, hidden, &double_img.gate(0)?, image_rows)?;
        let encoder = self.attn.to_add_out.forward_gated(&txt_attn, encoder, &double_txt.gate(0)?, text_rows)?;

        let hidden = self.ff.forward_gated(&hidden, double_img, image_rows)?;
        let encoder = self.ff_context.forward_gated(&encoder, double_txt, text_rows)?;
        Ok(Streams { hidden_states: hidden, encoder_hidden_states: Some(encoder) })
    }
}

/// The joint attention; no projection has a bias.
pub struct Attention {
    to_qkv: Linear,
    add_qkv_proj: Linear,
    norm_q: Tensor,
    norm_k: Tensor,
    norm_added_q: Tensor,
    norm_added_k: Tensor,
    /// The image stream's output projection.
    pub to_out: Linear,
    /// The text stream's output projection.
    pub to_add_out: Linear,
    num_heads: usize,
    products: Products,
    eps: f64,
}

parameters!(Attention { to_qkv, add_qkv_proj, norm_q, norm_k, norm_added_q, norm_added_k, to_out, to_add_out });

impl Attention {
    fn load(config: &TransformerConfig, scope: &Scope<'_>) -> Result<Self, LoadError> {
        let dim = config.dim();
        let fused = |names: &[&str]| scope.fused_linear(names, dim, &[dim; 3], false);
        let norm = |name: &str| head_norm(config, scope, name);
        Ok(Attention {
            to_qkv: fused(&["to_q", "to_k", "to_v"])?,
            add_qkv_proj: fused(&["add_q_proj", "add_k_proj", "add_v_proj"])?,
            norm_q: norm("norm_q")?,
            norm_k: norm("norm_k")?,
            norm_added_q: norm("norm_added_q")?,
            norm_added_k: norm("norm_added_k")?,
            to_out: scope.pp("to_out.0").linear_no_bias(dim, dim)?,
            to_add_out: scope.pp("to_add_out").linear_no_bias(dim, dim)?,
            num_heads: config.num_attention_heads,
            products: scope.precision().products(),
            eps: config.eps,
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
        let text =
            AttentionStream { qkv: &text_qkv, norm_q: &self.norm_added_q, norm_k: &self.norm_added_k, rows: text_rows };
        let image = AttentionStream { qkv: &image_qkv, norm_q: &self.norm_q, norm_k: &self.norm_k, rows: image_rows };
        let Attention { num_heads, eps, products, .. } = *self;
        JointAttention { text, image, rope, num_heads, eps, products }.forward()
    }
}

/// Loads the RMSNorm weight `name` of the heads, `[head_dim]`.
pub(super) fn head_norm(config: &TransformerConfig, scope: &Scope<'_>, name: &str) -> Result<Tensor, LoadError> {
    let weight = scope.pp(name).get(config.attention_head_dim, "weight")?;
    scope.device(weight.to_dtype(scope.precision().activations))
}

/// Two layers with a SwiGLU between them; neither has a bias.
pub struct FeedForward {
    /// Gate and up projection, concatenated.
    linear_in: Linear,
    linear_out: Linear,
}

parameters!(FeedForward { linear_in, linear_out });

impl FeedForward {
    fn load(config: &TransformerConfig, scope: &Scope<'_>) -> Result<Self, LoadError> {
        let (dim, hidden_dim) = (config.dim(), config.mlp_hidden_dim());
        Ok(FeedForward {
            linear_in: scope.pp("linear_in").linear_no_bias(dim, 2 * hidden_dim)?,
            linear_out: scope.pp("linear_out").linear_no_bias(hidden_dim, dim)?,
        })
    }

    /// Returns the network's output, `[tokens, dim]`.
    ///
    /// # Errors
    /// The device fails.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.linear_out.forward(&swiglu(&self.linear_in.forward(x)?)?)
    }

    /// Adds the gated output for `x`, normed with the second modulation set, to `x`.
    fn forward_gated(&self, x: &Tensor, modulation: &Modulation, rows: &RowLayout) -> Result<Tensor> {
        let inner = swiglu(&self.linear_in.forward(&modulation.norm(1, x, rows)?)?)?;
        self.linear_out.forward_gated(&inner, x, &modulation.gate(1)?, rows)
    }
}
