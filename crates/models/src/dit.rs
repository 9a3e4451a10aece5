//! A diffusion transformer as the denoising step sees it: lists of blocks that can be run one by one.
//!
//! The step cache works between the blocks, so no transformer here has a monolithic forward pass.

use std::ops::Range;

use candle_core::{Result, Tensor};
use kernels::{RowLayout, cat_rows, check_interrupt};

/// The tensors that blocks pass on. Rows are concatenated along the token axis.
#[derive(Clone)]
pub struct Streams {
    /// Image tokens, `[tokens, dim]`. The step cache measures these.
    pub hidden_states: Tensor,
    /// Text tokens, `[tokens, dim]`, for blocks that keep the two streams apart.
    pub encoder_hidden_states: Option<Tensor>,
}

impl Streams {
    /// Returns the text stream of a dual-stream block.
    ///
    /// # Errors
    /// There is no text stream: the caller mixed up two kinds of blocks.
    pub fn encoder(&self) -> Result<&Tensor> {
        match &self.encoder_hidden_states {
            Some(encoder) => Ok(encoder),
            None => candle_core::bail!("a dual-stream block was given a single stream. This is a bug."),
        }
    }
}

/// One list of transformer blocks. Each list has its own cache context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockList {
    /// The list's name in the checkpoint.
    pub name: &'static str,
    /// Number of blocks.
    pub num_blocks: usize,
    /// Whether the blocks keep text and image apart. Otherwise the text is part of the hidden stream.
    pub is_dual: bool,
    /// Whether anything after this segment reads its text stream.
    pub encoder_is_used: bool,
}

impl BlockList {
    /// Returns the segment as the cache crate describes it.
    pub(crate) fn named(&self) -> cache::Segment {
        cache::Segment { name: self.name, num_blocks: self.num_blocks }
    }
}

/// One transformer pass of one request: its input at this step.
#[derive(Clone, Copy)]
pub struct DitRow<'a> {
    /// Packed noisy latents, `[image_seq_len, channels]` in f32.
    pub latents: &'a Tensor,
    /// Rows and columns of the image tokens.
    pub token_grid: (usize, usize),
    /// Reference pictures. They go through the blocks after the tokens of the picture that is made.
    pub references: &'a [ReferenceLatents],
    /// Text encoder states, `[text_len, width]`.
    pub prompt_embeds: &'a Tensor,
    /// Noise level, in 0..=1.
    pub sigma: f32,
    /// Guidance weight, for a transformer that takes it as an input.
    pub guidance: Option<f32>,
}

/// A reference picture of an edit: clean latents, packed like [`DitRow::latents`].
#[derive(Clone, Debug)]
pub struct ReferenceLatents {
    /// `[tokens, channels]` in f32.
    pub latents: Tensor,
    /// Rows and columns of the picture's tokens.
    pub token_grid: (usize, usize),
}

impl DitRow<'_> {
    /// Returns the number of tokens of the picture that is made.
    pub fn num_tokens(&self) -> usize {
        self.token_grid.0 * self.token_grid.1
    }

    /// Returns the token grids in the image stream: the picture that is made, then its references.
    pub fn token_grids(&self) -> Vec<(usize, usize)> {
        std::iter::once(self.token_grid).chain(self.references.iter().map(|r| r.token_grid)).collect()
    }
}

/// A transformer whose blocks the caller runs.
pub trait Dit {
    /// State of a forward pass beside the streams: time embedding, rotary tables, offsets.
    type Context: Clone;

    /// Returns the lists of blocks, in the order in which they run.
    fn segments(&self) -> &[BlockList];

    /// Returns the bytes of the tables kept for the next step.
    fn kept_bytes(&self) -> usize;

    /// Limits the kept tables to `bytes`, now and from now on.
    fn keep_at_most(&self, bytes: usize);

    /// Embeds the rows of one step.
    ///
    /// # Errors
    /// The device fails.
    fn begin(&self, rows: &[DitRow<'_>]) -> Result<(Streams, Self::Context)>;

    /// Converts the streams after one segment to the form that segment `segment` takes. Blocks that keep text and image
    /// apart may be followed by blocks that do not.
    ///
    /// # Errors
    /// The device fails.
    fn enter(&self, segment: usize, streams: Streams, context: &Self::Context) -> Result<Streams> {
        let _ = (segment, context);
        Ok(streams)
    }

    /// Returns each row's token range in the two streams of segment `segment`. References count as image tokens.
    fn layouts<'c>(&self, segment: usize, context: &'c Self::Context) -> (&'c RowLayout, &'c RowLayout);

    /// Selects the context of some rows, in the given order.
    ///
    /// # Errors
    /// The device fails.
    fn select(&self, context: &Self::Context, rows: &[usize]) -> Result<Self::Context>;

    /// Runs `blocks` of segment `segment`. Work that several blocks share is done first.
    ///
    /// # Errors
    /// The device fails, or the work is interrupted. The interrupt is checked before each block.
    fn blocks(
        &self,
        segment: usize,
        blocks: Range<usize>,
        streams: Streams,
        context: &Self::Context,
    ) -> Result<Streams>;

    /// Runs block `index` of segment `segment`.
    ///
    /// # Errors
    /// The same as [`Dit::blocks`].
    fn block(&self, segment: usize, index: usize, streams: &Streams, context: &Self::Context) -> Result<Streams> {
        self.blocks(segment, index..index + 1, streams.clone(), context)
    }

    /// Returns the velocity of each row, `[image_seq_len, channels]` in f32.
    ///
    /// # Errors
    /// The device fails.
    fn end(&self, streams: &Streams, context: &Self::Context) -> Result<Vec<Tensor>>;
}

/// Runs `blocks` in order, each on the output of the one before, until an interrupt is set.
///
/// # Errors
/// A block fails, or the work is interrupted.
pub(crate) fn in_turn<B>(
    blocks: impl IntoIterator<Item = B>,
    streams: Streams,
    mut run: impl FnMut(B, &Streams) -> Result<Streams>,
) -> Result<Streams> {
    blocks.into_iter().try_fold(streams, |streams, block| {
        check_interrupt()?;
        run(block, &streams)
    })
}

/// Selects rows of `vectors`, `[rows, dim]`, in the given order.
pub(crate) fn selected(vectors: &Tensor, rows: &[usize]) -> Result<Tensor> {
    let vectors = rows.iter().map(|&row| vectors.narrow(0, row, 1)).collect::<Result<Vec<_>>>()?;
    cat_rows(&vectors.iter().collect::<Vec<_>>())
}
