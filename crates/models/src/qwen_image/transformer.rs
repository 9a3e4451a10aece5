//! The diffusion transformer: predicts the velocity from noisy latents and text.
//!
//! Port of `QwenImageTransformer2DModel`:
//! <https://github.com/huggingface/diffusers/blob/v0.37.0/src/diffusers/models/transformers/transformer_qwenimage.py#L746>

use std::ops::Range;

use candle_core::{DType, Device, Tensor};
use kernels::{Layers, Linear, RowLayout, cat_rows, modulated_layer_norm, rms_norm};

use super::block::{Block, BlockContext, ImageTime, Modulation, Modulations, NORM_EPS};
use super::config::TransformerConfig;
use super::rope::RopeTables;
use crate::Result;
use crate::dit::{BlockList, Dit, DitRow, Streams, in_turn, selected};
use crate::error::LoadError;
use crate::scope::Scope;
use crate::timestep_embedding::{TimestepEmbedder, timestep_embedding};

/// Qwen-Image's dual-stream transformer of 60 blocks, or of the number in its configuration.
pub struct Transformer {
    img_in: Linear,
    txt_norm: Tensor,
    txt_in: Linear,
    time_embedder: TimestepEmbedder,
    modulations: Modulations,
    transformer_blocks: Layers<Block>,
    norm_out: Linear,
    proj_out: Linear,
    rope: RopeTables,
    segments: [BlockList; 1],
    zero_cond_t: bool,
    activations: DType,
    device: Device,
}

/// State of a forward pass beside the streams.
#[derive(Clone)]
pub struct Conditioning {
    blocks: BlockContext,
    /// Number of each row's image tokens that become its velocity; the references' tokens follow them.
    generated: Vec<usize>,
}

impl Conditioning {
    /// Returns the image token ranges of each time embedding: one per row, or with `zero_cond_t` one for its picture
    /// and one for its references.
    pub fn image_time_rows(&self) -> &RowLayout {
        &self.blocks.image_time.rows
    }

    /// Returns the image token ranges of the rows, references included.
    pub fn image_rows(&self) -> &RowLayout {
        &self.blocks.image_rows
    }

    /// Returns the text token ranges of the rows.
    pub fn text_rows(&self) -> &RowLayout {
        &self.blocks.text_rows
    }

    /// Returns each row's rotary table: text positions, then image positions.
    pub fn rope(&self) -> &[std::sync::Arc<kernels::RopeTable>] {
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
        let txt_norm = scope.get(config.joint_attention_dim, "txt_norm.weight")?;
        let mut modulations = Modulations::with_capacity(config, config.num_layers);
        let blocks = scope.list("transformer_blocks", config.num_layers)?.enumerate().map(|(index, block)| {
            modulations.load_next(&block)?;
            Block::load(config, &block.quantized_block(index, config.num_layers))
        });
        let transformer_blocks = scope.layers(0, blocks)?;
        Ok(Transformer {
            img_in: scope.pp("img_in").linear(config.in_channels, dim)?,
            txt_norm: scope.device(txt_norm.to_dtype(precision.activations))?,
            txt_in: scope.pp("txt_in").linear(config.joint_attention_dim, dim)?,
            time_embedder: TimestepEmbedder::load(
                TIME_CHANNELS,
                dim,
                true,
                &scope.pp("time_text_embed.timestep_embedder"),
            )?,
            modulations,
            transformer_blocks,
            norm_out: scope.pp("norm_out.linear").linear(dim, 2 * dim)?,
            proj_out: scope.pp("proj_out").linear(dim, config.in_channels)?,
            rope: RopeTables::new(config.axes_dims_rope, precision.device.clone()),
            segments: [BlockList {
                name: "transformer_blocks",
                num_blocks: config.num_layers,
                is_dual: true,
                encoder_is_used: false,
            }],
            zero_cond_t: config.zero_cond_t,
            activations: precision.activations,
            device: precision.device.clone(),
        })
    }

    /// Returns the blocks in order, or nothing if they are streamed.
    pub fn blocks(&self) -> &[Block] {
        self.transformer_blocks.as_slice()
    }

    /// Returns the shifts, scales and gates of the image and text streams, for each of `blocks`.
    ///
    /// # Errors
    /// The device fails, or a block does not exist.
    pub fn modulations(&self, blocks: Range<usize>, context: &Conditioning) -> Result<Vec<[Modulation; 2]>> {
        self.modulations.of(blocks, &context.blocks)?.collect()
    }

    /// Applies the text stream's RMSNorm, which precedes its projection. The shape stays `[tokens, width]`.
    ///
    /// # Errors
    /// The device fails.
    pub fn norm_text(&self, prompt_embeds: &Tensor) -> Result<Tensor> {
        rms_norm(prompt_embeds, &self.txt_norm, NORM_EPS)
    }

    /// Returns the time embedding of each noise level, `[rows, dim]`.
    ///
    /// # Errors
    /// The device fails.
    pub fn time_embed(&self, sigmas: &[f32]) -> Result<Tensor> {
        let projected = timestep_embedding(sigmas, TIME_CHANNELS, TIME_SCALE, &self.device)?;
        self.time_embedder.forward(&projected.to_dtype(self.activations)?)
    }

    /// Applies the last norm, scaled and shifted by the time embedding. Only here the vectors are in the order (scale,
    /// shift).
    ///
    /// # Errors
    /// The device fails.
    pub fn final_norm(&self, hidden_states: &Tensor, context: &Conditioning) -> Result<Tensor> {
        let modulation = self.norm_out.forward(&context.blocks.time_embed)?;
        let dim = modulation.dim(1)? / 2;
        let (scale, shift) = (modulation.narrow(1, 0, dim)?, modulation.narrow(1, dim, dim)?);
        modulated_layer_norm(hidden_states, &shift, &scale, &context.blocks.image_rows, NORM_EPS)
    }

    /// Returns `SiLU(temb)` of each row, and the time embeddings that modulate the image tokens.
    fn times(&self, rows: &[DitRow<'_>], image_rows: &RowLayout) -> Result<(Tensor, ImageTime)> {
        let sigmas: Vec<f32> = rows.iter().map(|row| row.sigma).collect();
        let time_embed = self.time_embed(&sigmas)?.silu()?;
        if !self.zero_cond_t {
            return Ok((time_embed.clone(), ImageTime { time_embed, rows: image_rows.clone() }));
        }
        let at_zero = self.time_embed(&[0.0])?.silu()?;
        let pairs = (0..rows.len()).map(|row| Ok([time_embed.narrow(0, row, 1)?, at_zero.clone()]));
        let pairs = pairs.collect::<Result<Vec<_>>>()?.concat();
        let lengths = rows.iter().zip(image_rows.iter()).flat_map(|(row, tokens)| {
            let generated = row.num_tokens();
            [generated, tokens.len() - generated]
        });
        let rows = RowLayout::new(&lengths.collect::<Vec<_>>());
        Ok((time_embed, ImageTime { time_embed: Tensor::cat(&pairs, 0)?, rows }))
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
        let image_rows = RowLayout::new(&rows.iter().map(pictures).collect::<Vec<_>>());
        let text_rows = RowLayout::new(&embeds.iter().map(|e| e.dim(0)).collect::<Result<Vec<_>>>()?);
        let rope = rows.iter().enumerate().map(|(i, row)| self.rope.get(row.token_grids(), text_rows.length(i)));

        let hidden_states = self.img_in.forward(&cat_rows(&latents)?.to_dtype(self.activations)?)?;
        let encoder = self.txt_in.forward(&self.norm_text(&cat_rows(&embeds)?.to_dtype(self.activations)?)?)?;
        let streams = Streams { hidden_states, encoder_hidden_states: Some(encoder) };
        let (time_embed, image_time) = self.times(rows, &image_rows)?;
        let rope = rope.collect::<Result<_>>()?;
        let generated = rows.iter().map(DitRow::num_tokens).collect();
        let blocks = BlockContext { time_embed, image_rows, image_time, text_rows, rope };
        Ok((streams, Conditioning { blocks, generated }))
    }

    fn layouts<'c>(&self, _segment: usize, context: &'c Conditioning) -> (&'c RowLayout, &'c RowLayout) {
        (&context.blocks.image_rows, &context.blocks.text_rows)
    }

    fn select(&self, context: &Conditioning, rows: &[usize]) -> Result<Conditioning> {
        let BlockContext { time_embed, image_rows, image_time, text_rows, rope } = &context.blocks;
        let lengths = |of: &RowLayout, rows: &[usize]| {
            RowLayout::new(&rows.iter().map(|&row| of.length(row)).collect::<Vec<_>>())
        };
        let times: Vec<usize> = match self.zero_cond_t {
            true => rows.iter().flat_map(|row| [2 * row, 2 * row + 1]).collect(),
            false => rows.to_vec(),
        };
        let blocks = BlockContext {
            time_embed: selected(time_embed, rows)?,
            image_rows: lengths(image_rows, rows),
            image_time: ImageTime {
                time_embed: selected(&image_time.time_embed, &times)?,
                rows: lengths(&image_time.rows, &times),
            },
            text_rows: lengths(text_rows, rows),
            rope: rows.iter().map(|&row| rope[row].clone()).collect(),
        };
        Ok(Conditioning { blocks, generated: rows.iter().map(|&row| context.generated[row]).collect() })
    }

    fn blocks(
        &self,
        _segment: usize,
        blocks: Range<usize>,
        streams: Streams,
        context: &Conditioning,
    ) -> Result<Streams> {
        let modulations = self.modulations.of(blocks.clone(), &context.blocks)?;
        in_turn(blocks.zip(modulations), streams, |(index, modulation), streams| {
            let modulation = modulation?;
            self.transformer_blocks.run(index, |block| block.forward(streams, &modulation, &context.blocks))
        })
    }

    fn end(&self, streams: &Streams, context: &Conditioning) -> Result<Vec<Tensor>> {
        let normed = self.final_norm(&streams.hidden_states, context)?;
        let velocity = self.proj_out.forward(&normed)?.to_dtype(DType::F32)?;
        context
            .blocks
            .image_rows
            .iter()
            .zip(&context.generated)
            .map(|(range, &len)| velocity.narrow(0, range.start, len))
            .collect()
    }
}

/// Channels of a noise level's sinusoidal embedding.
const TIME_CHANNELS: usize = 256;
/// Factor of a noise level in its sinusoidal embedding.
const TIME_SCALE: f32 = 1000.0;
