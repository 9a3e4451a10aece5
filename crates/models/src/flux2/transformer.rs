//! The diffusion transformer: predicts the velocity from noisy latents, references and text.
//!
//! Port of `Flux2Transformer2DModel`:
//! <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/models/transformers/transformer_flux2.py#L1059>

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use kernels::{Layers, Linear, RopeTable, RowLayout, cat_rows, modulated_layer_norm};

use super::block::{Block, BlockContext};
use super::config::TransformerConfig;
use super::modulation::Modulation;
use super::rope::RopeTables;
use super::single_block::SingleBlock;
use crate::Result;
use crate::dit::{BlockList, Dit, DitRow, Streams, in_turn, selected};
use crate::error::LoadError;
use crate::scope::Scope;
use crate::timestep_embedding::{TimestepEmbedder, timestep_embedding};

/// FLUX.2's transformer of dual-stream and single-stream blocks, sized by its configuration.
pub struct Transformer {
    x_embedder: Linear,
    context_embedder: Linear,
    timestep_embedder: TimestepEmbedder,
    /// Only in networks that take a distilled guidance scale.
    guidance_embedder: Option<TimestepEmbedder>,
    double_stream_modulation_img: Linear,
    double_stream_modulation_txt: Linear,
    single_stream_modulation: Linear,
    transformer_blocks: Layers<Block>,
    single_transformer_blocks: Layers<SingleBlock>,
    norm_out: Linear,
    proj_out: Linear,
    rope: RopeTables,
    segments: [BlockList; 2],
    time_channels: usize,
    eps: f64,
    activations: DType,
    device: Device,
}

/// State of a forward pass beside the streams.
#[derive(Clone)]
pub struct Conditioning {
    blocks: BlockContext,
    /// `SiLU(temb)`, `[rows, dim]`.
    time_embed: Tensor,
    /// Number of each row's image tokens that become its velocity; the references' tokens follow them.
    generated: Vec<usize>,
}

impl Conditioning {
    /// Returns the modulation of the image stream in dual-stream blocks, two sets.
    pub fn double_img(&self) -> &Modulation {
        &self.blocks.double_img
    }

    /// Returns the modulation of the text stream in dual-stream blocks, two sets.
    pub fn double_txt(&self) -> &Modulation {
        &self.blocks.double_txt
    }

    /// Returns the modulation of single-stream blocks, one set.
    pub fn single(&self) -> &Modulation {
        &self.blocks.single
    }

    /// Returns the text token ranges of the rows in dual-stream blocks.
    pub fn text_rows(&self) -> &RowLayout {
        &self.blocks.text_rows
    }

    /// Returns the image token ranges of the rows in dual-stream blocks, references included.
    pub fn image_rows(&self) -> &RowLayout {
        &self.blocks.image_rows
    }

    /// Returns the ranges of each row's text and image tokens together in single-stream blocks.
    pub fn joint_rows(&self) -> &RowLayout {
        &self.blocks.joint_rows
    }

    /// Returns each row's rotary table: text positions, then image positions.
    pub fn rope(&self) -> &[Arc<RopeTable>] {
        &self.blocks.rope
    }
}

impl Transformer {
    /// Loads the network from the component's root.
    ///
    /// # Errors
    /// A tensor is missing or misshapen.
    pub fn load(config: &TransformerConfig, scope: &Scope<'_>) -> Result<Self, LoadError> {
        let dim = config.dim();
        let precision = scope.precision();
        let linear = |name: &str, in_features, out_features| scope.pp(name).linear_no_bias(in_features, out_features);
        let time_channels = config.timestep_guidance_channels;
        let embedder =
            |name: &str| TimestepEmbedder::load(time_channels, dim, false, &scope.pp("time_guidance_embed").pp(name));
        let num_blocks = config.num_layers + config.num_single_layers;
        let dual = scope.list("transformer_blocks", config.num_layers)?.zip(0..);
        let dual = dual.map(|(block, index)| Block::load(config, &block.quantized_block(index, num_blocks)));
        let single = scope.list("single_transformer_blocks", config.num_single_layers)?.zip(config.num_layers..);
        let single = single.map(|(block, index)| SingleBlock::load(config, &block.quantized_block(index, num_blocks)));
        Ok(Transformer {
            x_embedder: linear("x_embedder", config.in_channels, dim)?,
            context_embedder: linear("context_embedder", config.joint_attention_dim, dim)?,
            timestep_embedder: embedder("timestep_embedder")?,
            guidance_embedder: config.guidance_embeds.then(|| embedder("guidance_embedder")).transpose()?,
            double_stream_modulation_img: linear("double_stream_modulation_img.linear", dim, 6 * dim)?,
            double_stream_modulation_txt: linear("double_stream_modulation_txt.linear", dim, 6 * dim)?,
            single_stream_modulation: linear("single_stream_modulation.linear", dim, 3 * dim)?,
            transformer_blocks: scope.layers(0, dual)?,
            single_transformer_blocks: scope.layers(config.num_layers, single)?,
            norm_out: linear("norm_out.linear", dim, 2 * dim)?,
            proj_out: linear("proj_out", dim, config.in_channels)?,
            rope: RopeTables::new(config, precision.device.clone()),
            segments: segments(config),
            time_channels,
            eps: config.eps,
            activations: precision.activations,
            device: precision.device.clone(),
        })
    }

    /// Returns the dual-stream blocks in order, or nothing if they are streamed.
    pub fn blocks(&self) -> &[Block] {
        self.transformer_blocks.as_slice()
    }

    /// Returns the single-stream blocks in order, or nothing if they are streamed.
    pub fn single_blocks(&self) -> &[SingleBlock] {
        self.single_transformer_blocks.as_slice()
    }

    /// Embeds each noise level and guidance scale, `[rows, dim]`. A row without a scale has the embedding of its noise
    /// level alone, and so have all rows of a network without guidance input.
    ///
    /// # Errors
    /// The device fails.
    pub fn time_embed(&self, sigmas: &[f32], guidance: &[Option<f32>]) -> Result<Tensor> {
        let thousandths: Vec<f32> = sigmas.iter().map(|sigma| sigma * 1000.0).collect();
        let time_embed = self.timestep_embedder.forward(&self.sinusoid(&thousandths)?)?;
        let Some(embedder) = self.guidance_embedder.as_ref().filter(|_| guidance.iter().any(Option::is_some)) else {
            return Ok(time_embed);
        };
        let scales: Vec<f32> = guidance.iter().map(|scale| scale.unwrap_or(0.0) * 1000.0).collect();
        let given = guidance.iter().map(|scale| if scale.is_some() { 1_f32 } else { 0.0 });
        let given = Tensor::from_iter(given, &self.device)?.unsqueeze(1)?.to_dtype(self.activations)?;
        time_embed + embedder.forward(&self.sinusoid(&scales)?)?.broadcast_mul(&given)?
    }

    /// Applies the last norm to image tokens with the layout `rows`, scaled and shifted by the time embedding. Only
    /// here the vectors are in the order (scale, shift).
    ///
    /// # Errors
    /// The device fails.
    pub fn final_norm(&self, image: &Tensor, rows: &RowLayout, context: &Conditioning) -> Result<Tensor> {
        let modulation = self.norm_out.forward(&context.time_embed)?;
        let dim = modulation.dim(1)? / 2;
        let (scale, shift) = (modulation.narrow(1, 0, dim)?, modulation.narrow(1, dim, dim)?);
        modulated_layer_norm(image, &shift, &scale, rows, self.eps)
    }

    fn sinusoid(&self, thousandths: &[f32]) -> Result<Tensor> {
        timestep_embedding(thousandths, self.time_channels, 1.0, &self.device)?.to_dtype(self.activations)
    }

    /// Returns the time embedding of every row, after its SiLU, and the modulations of all blocks.
    fn modulations(&self, rows: &[DitRow<'_>]) -> Result<(Tensor, [Modulation; 3])> {
        let sigmas: Vec<f32> = rows.iter().map(|row| row.sigma).collect();
        let guidance: Vec<Option<f32>> = rows.iter().map(|row| row.guidance).collect();
        let time_embed = self.time_embed(&sigmas, &guidance)?.silu()?;
        let modulation = |linear: &Linear, num_sets| -> Result<_> {
            Ok(Modulation::new(linear.forward(&time_embed)?, num_sets, self.eps))
        };
        let double_img = modulation(&self.double_stream_modulation_img, 2)?;
        let double_txt = modulation(&self.double_stream_modulation_txt, 2)?;
        let single = modulation(&self.single_stream_modulation, 1)?;
        Ok((time_embed, [double_img, double_txt, single]))
    }
}

impl Dit for Transformer {
    type Context = Conditioning;

    fn segments(&self) -> &[BlockList] {
        &self.segments
    }

    fn kept_bytes(&self) -> usize {
        self.rope.kept_bytes()
    }

    fn keep_at_most(&self, bytes: usize) {
        self.rope.keep_at_most(bytes);
    }

    fn begin(&self, rows: &[DitRow<'_>]) -> Result<(Streams, Conditioning)> {
        let pictures = |row: &DitRow<'_>| row.token_grids().iter().map(|(rows, columns)| rows * columns).sum();
        let latents: Vec<&Tensor> = rows
            .iter()
            .flat_map(|row| std::iter::once(row.latents).chain(row.references.iter().map(|r| &r.latents)))
            .collect();
        let embeds: Vec<&Tensor> = rows.iter().map(|row| row.prompt_embeds).collect();
        let image_lens: Vec<usize> = rows.iter().map(pictures).collect();
        let text_lens: Vec<usize> = embeds.iter().map(|e| e.dim(0)).collect::<Result<_>>()?;
        let rope = rows.iter().zip(&text_lens).map(|(row, &text_len)| self.rope.get(row.token_grids(), text_len));
        let rope = rope.collect::<Result<_>>()?;

        let embed = |linear: &Linear, parts: &[&Tensor]| linear.forward(&cat_rows(parts)?.to_dtype(self.activations)?);
        let hidden_states = embed(&self.x_embedder, &latents)?;
        let encoder = embed(&self.context_embedder, &embeds)?;
        let streams = Streams { hidden_states, encoder_hidden_states: Some(encoder) };
        let (time_embed, modulations) = self.modulations(rows)?;
        let blocks = BlockContext::new(modulations, &text_lens, &image_lens, rope);
        let generated = rows.iter().map(DitRow::num_tokens).collect();
        Ok((streams, Conditioning { blocks, time_embed, generated }))
    }

    /// Concatenates each row's text and image for the single-stream blocks.
    fn enter(&self, segment: usize, streams: Streams, context: &Conditioning) -> Result<Streams> {
        if segment == 0 {
            return Ok(streams);
        }
        let BlockContext { text_rows, image_rows, .. } = &context.blocks;
        let encoder = streams.encoder()?;
        let part = |of: &Tensor, tokens: Range<usize>| of.narrow(0, tokens.start, tokens.len());
        let rows = text_rows.iter().zip(image_rows.iter());
        let parts = rows.flat_map(|(text, image)| [part(encoder, text), part(&streams.hidden_states, image)]);
        let parts = parts.collect::<Result<Vec<_>>>()?;
        let hidden_states = cat_rows(&parts.iter().collect::<Vec<_>>())?;
        Ok(Streams { hidden_states, encoder_hidden_states: None })
    }

    fn layouts<'c>(&self, segment: usize, context: &'c Conditioning) -> (&'c RowLayout, &'c RowLayout) {
        let BlockContext { image_rows, text_rows, joint_rows, no_rows, .. } = &context.blocks;
        if segment == 0 { (image_rows, text_rows) } else { (joint_rows, no_rows) }
    }

    fn select(&self, context: &Conditioning, rows: &[usize]) -> Result<Conditioning> {
        Ok(Conditioning {
            blocks: context.blocks.select(rows)?,
            time_embed: selected(&context.time_embed, rows)?,
            generated: rows.iter().map(|&row| context.generated[row]).collect(),
        })
    }

    fn blocks(
        &self,
        segment: usize,
        blocks: Range<usize>,
        streams: Streams,
        context: &Conditioning,
    ) -> Result<Streams> {
        in_turn(blocks, streams, |index, streams| match segment {
            0 => self.transformer_blocks.run(index, |block| block.forward(streams, &context.blocks)),
            _ => self.single_transformer_blocks.run(index, |block| block.forward(streams, &context.blocks)),
        })
    }

    fn end(&self, streams: &Streams, context: &Conditioning) -> Result<Vec<Tensor>> {
        let BlockContext { joint_rows, text_rows, .. } = &context.blocks;
        let generated = joint_rows.iter().zip(text_rows.iter()).zip(&context.generated);
        let generated =
            generated.map(|((joint, text), &tokens)| streams.hidden_states.narrow(0, joint.start + text.len(), tokens));
        let generated = generated.collect::<Result<Vec<_>>>()?;
        let image = cat_rows(&generated.iter().collect::<Vec<_>>())?;
        let rows = RowLayout::new(&context.generated);
        let velocity = self.proj_out.forward(&self.final_norm(&image, &rows, context)?)?.to_dtype(DType::F32)?;
        rows.iter().map(|tokens| velocity.narrow(0, tokens.start, tokens.len())).collect()
    }
}

fn segments(config: &TransformerConfig) -> [BlockList; 2] {
    [
        // The text stream is the beginning of the sequences in the next segment.
        BlockList { name: "transformer_blocks", num_blocks: config.num_layers, is_dual: true, encoder_is_used: true },
        BlockList {
            name: "single_transformer_blocks",
            num_blocks: config.num_single_layers,
            is_dual: false,
            encoder_is_used: false,
        },
    ]
}
