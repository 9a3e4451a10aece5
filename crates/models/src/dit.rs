//! A diffusion transformer as the denoising step sees it: lists of blocks that can be run one by one.
//!
//! The step cache stands between the blocks, so no transformer here has a monolithic forward pass.

use std::ops::Range;

use candle_core::{Result, Tensor};
use kernels::{RowLayout, cat_rows, check_interrupt};

/// What blocks pass on. Rows are concatenated along tokens.
#[derive(Clone)]
pub struct Streams {
    /// Image tokens, `[tokens, dim]`: what the cache measures.
    pub hidden_states: Tensor,
    /// Text tokens of blocks that keep the streams apart, `[tokens, dim]`.
    pub encoder_hidden_states: Option<Tensor>,
}

impl Streams {
    /// The text stream of a dual-stream block.
    ///
    /// # Errors
    /// There is none: the caller mixed up two kinds of blocks.
    pub fn encoder(&self) -> Result<&Tensor> {
        match &self.encoder_hidden_states {
            Some(encoder) => Ok(encoder),
            None => candle_core::bail!("a dual-stream block was given a single stream. This is a bug."),
        }
    }
}

/// One list of blocks of a transformer; each has a cache context of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The list's name in the checkpoint.
    pub name: &'static str,
    /// Blocks in it.
    pub num_blocks: usize,
    /// Whether its blocks keep the text apart from the image; else the text is part of the hidden stream.
    pub is_dual: bool,
    /// Whether anything behind the segment looks at its text stream.
    pub encoder_is_used: bool,
}

impl Segment {
    /// As the cache knows it.
    pub(crate) fn named(&self) -> cache::Segment {
        cache::Segment { name: self.name, num_blocks: self.num_blocks }
    }
}

/// One transformer pass of one request: its input at this step.
#[derive(Clone, Copy)]
pub struct DitRow<'a> {
    /// Packed noisy latents, `[image_seq_len, channels]` in f32.
    pub latents: &'a Tensor,
    /// Rows and columns of image tokens.
    pub token_grid: (usize, usize),
    /// Pictures to look at while making this one: they go through the blocks behind its tokens.
    pub references: &'a [ReferenceLatents],
    /// Text encoder states, `[text_len, width]`.
    pub prompt_embeds: &'a Tensor,
    /// The noise level, in 0..=1.
    pub sigma: f32,
    /// The weight of guidance, for a transformer that takes it as an input.
    pub guidance: Option<f32>,
}

/// A picture that an edit starts from, clean and packed like [`DitRow::latents`].
#[derive(Clone, Debug)]
pub struct ReferenceLatents {
    /// `[tokens, channels]` in f32.
    pub latents: Tensor,
    /// Rows and columns of its tokens.
    pub token_grid: (usize, usize),
}

impl DitRow<'_> {
    /// Tokens of the picture that is being made.
    pub fn num_tokens(&self) -> usize {
        self.token_grid.0 * self.token_grid.1
    }

    /// The token grids in the image stream: of the picture, then of its references.
    pub fn token_grids(&self) -> Vec<(usize, usize)> {
        std::iter::once(self.token_grid).chain(self.references.iter().map(|r| r.token_grid)).collect()
    }
}

/// A transformer whose blocks are run by the caller.
pub trait Dit {
    /// What a forward pass carries beside the streams: time embedding, rotary tables, offsets.
    type Context: Clone;

    /// The lists of blocks, in the order in which they run.
    fn segments(&self) -> &[Segment];

    /// Bytes of the tables that are kept for the next step.
    fn kept_bytes(&self) -> usize;

    /// Lets go of what is more than so many bytes, now and from now on.
    fn keep_at_most(&self, bytes: usize);

    /// Embeds the rows of a step.
    ///
    /// # Errors
    /// The device fails.
    fn begin(&self, rows: &[DitRow<'_>]) -> Result<(Streams, Self::Context)>;

    /// The streams as segment `segment` takes them, from those behind the segment before it: blocks that
    /// keep text and image apart may be followed by blocks that do not.
    ///
    /// # Errors
    /// The device fails.
    fn enter(&self, segment: usize, streams: Streams, context: &Self::Context) -> Result<Streams> {
        let _ = (segment, context);
        Ok(streams)
    }

    /// Where each row's tokens are in the two streams of segment `segment`; references are image tokens.
    fn layouts<'c>(&self, segment: usize, context: &'c Self::Context) -> (&'c RowLayout, &'c RowLayout);

    /// The context of some of the rows, in the given order.
    ///
    /// # Errors
    /// The device fails.
    fn select(&self, context: &Self::Context, rows: &[usize]) -> Result<Self::Context>;

    /// Runs `blocks` of segment `segment`. What is made for several of them at once is made first.
    ///
    /// # Errors
    /// The device fails, or the work is interrupted: this is looked for ahead of each block.
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
    /// As of [`Dit::blocks`].
    fn block(&self, segment: usize, index: usize, streams: &Streams, context: &Self::Context) -> Result<Streams> {
        self.blocks(segment, index..index + 1, streams.clone(), context)
    }

    /// The velocity of each row, `[image_seq_len, channels]` in f32.
    ///
    /// # Errors
    /// The device fails.
    fn end(&self, streams: &Streams, context: &Self::Context) -> Result<Vec<Tensor>>;
}

/// Runs each of `blocks` on what the one before it made, as long as nobody interrupts.
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

/// The vectors of some of the rows, in the given order: of `[rows, dim]`.
pub(crate) fn selected(vectors: &Tensor, rows: &[usize]) -> Result<Tensor> {
    let vectors = rows.iter().map(|&row| vectors.narrow(0, row, 1)).collect::<Result<Vec<_>>>()?;
    cat_rows(&vectors.iter().collect::<Vec<_>>())
}
