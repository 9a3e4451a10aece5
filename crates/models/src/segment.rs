//! Runs one segment's blocks on a ragged batch in which some rows skip their middle blocks.
//!
//! Rows may differ in every cache setting: how many first and last blocks always run, when the cache reuses, and
//! whether there is a cache at all. The blocks are therefore cut into *stretches* at every depth where some row's
//! middle begins or ends. Before a stretch, the rows whose middle begins there decide, with at most one copy from the
//! device. Rows that reuse take their forecast and sit out until their last blocks. The other rows run the stretch as
//! one batch.

use std::collections::BTreeSet;
use std::ops::Range;

use cache::{RowObservation, StepRecord, Stream};
use candle_core::{Result, Tensor};
use kernels::{RowLayout, WeightedTensors, cat_rows, residual_diffs, weighted_sums};

use crate::dit::{Dit, Streams};
use crate::residuals::{At, RequestResiduals};

/// The passes of one request: adjacent rows of the batch, and the request's cache if it has one.
pub(crate) struct RequestRows<'a> {
    pub(crate) rows: Range<usize>,
    pub(crate) residuals: Option<&'a mut RequestResiduals>,
}

/// One pass on its way through the segment.
struct Row {
    streams: Streams,
    /// Hidden stream before the first block.
    input: Tensor,
    /// Both streams before the middle blocks, if the row has a cache and computes this step.
    middle_input: Option<Streams>,
    /// Whether the row sits out until its last blocks.
    reuses: bool,
}

/// A row whose middle blocks begin. `request` is its request's index among the entering ones; `added` is the residual
/// of the first blocks if it was measured already.
struct Begun {
    request: usize,
    row: usize,
    branch: usize,
    added: Option<Tensor>,
}

/// What the cache did with each row, `None` for a row without a cache.
pub type Records = Vec<Option<StepRecord>>;

/// Runs all blocks of segment `segment` and returns the rows' streams in their order.
///
/// # Errors
/// The device fails.
pub(crate) fn run_segment<D: Dit>(
    dit: &D,
    segment: usize,
    streams: Streams,
    context: &D::Context,
    requests: &mut [RequestRows<'_>],
) -> Result<(Streams, Records)> {
    let (hidden_rows, encoder_rows) = dit.layouts(segment, context);
    let num_blocks = dit.segments()[segment].num_blocks;
    let num_rows = hidden_rows.num_rows();
    if requests.iter().all(|request| request.residuals.is_none()) {
        let blocks = 0..num_blocks;
        return Ok((dit.blocks(segment, blocks, streams, context)?, vec![None; num_rows]));
    }
    let mut run = SegmentRun {
        dit,
        segment,
        context,
        rows: split(&streams, hidden_rows, encoder_rows)?,
        records: vec![None; num_rows],
        batch: Some(((0..num_rows).collect(), streams)),
    };
    let depths = depths(num_blocks, requests);
    for (&start, &end) in depths.iter().zip(depths.iter().skip(1)) {
        run.enter_middles(start, requests)?;
        run.stretch(start..end, requests)?;
        run.leave_middles(end, requests)?;
    }
    run.finish()
}

/// Returns every depth at which some row's middle begins or ends, including both ends of the segment.
fn depths(num_blocks: usize, requests: &[RequestRows<'_>]) -> Vec<usize> {
    let caches = requests.iter().filter_map(|request| request.residuals.as_deref());
    let middles = caches.flat_map(|residuals| {
        let middle = middle(residuals, num_blocks);
        [middle.start, middle.end]
    });
    BTreeSet::from_iter(middles.chain([0, num_blocks])).into_iter().collect()
}

/// Returns the blocks that a step may skip.
fn middle(residuals: &RequestResiduals, num_blocks: usize) -> Range<usize> {
    let config = residuals.rules.config();
    config.fn_compute_blocks..num_blocks - config.bn_compute_blocks
}

struct SegmentRun<'d, D: Dit> {
    dit: &'d D,
    segment: usize,
    context: &'d D::Context,
    rows: Vec<Row>,
    records: Records,
    /// Rows that ran the last stretch, still concatenated. Their entries in `rows` are older.
    batch: Option<(Vec<usize>, Streams)>,
}

impl<D: Dit> SegmentRun<'_, D> {
    /// Lets the caches decide for the rows whose middle blocks begin at `depth`.
    fn enter_middles(&mut self, depth: usize, requests: &mut [RequestRows<'_>]) -> Result<()> {
        let num_blocks = self.num_blocks();
        let entering = |request: &&mut RequestRows<'_>| {
            request.residuals.as_deref().is_some_and(|residuals| middle(residuals, num_blocks).start == depth)
        };
        let mut entering: Vec<_> = requests.iter_mut().filter(entering).collect();
        if entering.is_empty() {
            return Ok(());
        }
        self.take_apart()?;
        let mut measured = self.measure(&entering)?.into_iter();
        let mut begun = Vec::new();
        for (request, RequestRows { rows, residuals }) in entering.iter_mut().enumerate() {
            let Some(residuals) = residuals.as_deref_mut() else { continue };
            let (observed, added): (Vec<_>, Vec<_>) = measured
                .by_ref()
                .take(rows.len())
                .zip(rows.clone())
                .map(|(measured, row)| {
                    let (residual_diff, added) = measured.unzip();
                    (RowObservation { tokens: self.tokens(row), residual_diff }, added)
                })
                .unzip();
            let records = residuals.rules.decide(self.segment, &observed);
            for (((row, branch), record), added) in rows.clone().zip(0..).zip(records).zip(added) {
                self.records[row] = Some(record);
                self.rows[row].reuses = record.decision.reused();
                begun.push(Begun { request, row, branch, added });
            }
        }
        self.begin_middles(begun, &mut entering)
    }

    /// Measures each entering row that needs it: returns its diff and the residual of its first blocks. All diffs take
    /// a single copy from the device.
    fn measure(&self, entering: &[&mut RequestRows<'_>]) -> Result<Vec<Option<(f32, Tensor)>>> {
        let mut previous = Vec::new();
        for request in entering {
            let Some(residuals) = request.residuals.as_deref() else { continue };
            let tokens: Vec<_> = request.rows.clone().map(|row| self.tokens(row)).collect();
            let needed = residuals.rules.needs_diff(self.segment, &tokens);
            let stored = |branch: usize| residuals.first_blocks(self.segment, branch).filter(|_| needed[branch]);
            previous.extend(request.rows.clone().zip(0..).map(|(row, branch)| (row, stored(branch))));
        }
        let known: Vec<_> = previous.iter().filter_map(|&(row, stored)| Some((row, stored?))).collect();
        let added = weighted_sums(&known.iter().map(|&(row, _)| self.first_blocks_added(row)).collect::<Vec<_>>())?;
        let pairs: Vec<_> = added.iter().zip(known.iter().map(|(_, stored)| *stored)).collect();
        let mut measured = residual_diffs(&pairs)?.into_iter().zip(added);
        Ok(previous.into_iter().map(|(_, stored)| stored.and_then(|_| measured.next())).collect())
    }

    /// Moves reusing rows past their middle blocks, and prepares computing rows to store their residuals.
    fn begin_middles(&mut self, begun: Vec<Begun>, entering: &mut [&mut RequestRows<'_>]) -> Result<()> {
        let mut sums = Vec::new();
        for Begun { request, row, branch, added } in &begun {
            let Some(residuals) = entering[*request].residuals.as_deref() else { continue };
            let (at, streams) = (At { segment: self.segment, branch: *branch }, &self.rows[*row].streams);
            if self.rows[*row].reuses {
                sums.push(residuals.forecast(at, Stream::Hidden, &streams.hidden_states));
                let encoder = streams.encoder_hidden_states.as_ref().filter(|_| self.keeps_encoder(residuals));
                sums.extend(encoder.map(|encoder| residuals.forecast(at, Stream::Encoder, encoder)));
            } else if added.is_none() {
                sums.push(self.first_blocks_added(*row));
            }
        }
        let mut sums = weighted_sums(&sums)?.into_iter();
        for Begun { request, row, branch, added } in begun {
            let Some(residuals) = entering[request].residuals.as_deref_mut() else { continue };
            let keeps_encoder = self.keeps_encoder(residuals);
            let state = &mut self.rows[row];
            if state.reuses {
                state.streams.hidden_states = taken(&mut sums)?;
                if let Some(encoder) = state.streams.encoder_hidden_states.as_mut().filter(|_| keeps_encoder) {
                    *encoder = taken(&mut sums)?;
                }
            } else {
                let added = added.map_or_else(|| taken(&mut sums), Ok)?;
                residuals.store_first_blocks(self.segment, branch, added);
                state.middle_input = Some(state.streams.clone());
            }
        }
        Ok(())
    }

    /// Stores the residuals of the middle blocks that end at `depth`, for the rows that computed them.
    fn leave_middles(&mut self, depth: usize, requests: &mut [RequestRows<'_>]) -> Result<()> {
        let num_blocks = self.num_blocks();
        let leaving = |request: &&mut RequestRows<'_>| {
            request.residuals.as_deref().is_some_and(|residuals| middle(residuals, num_blocks).end == depth)
        };
        let mut leaving: Vec<_> = requests.iter_mut().filter(leaving).collect();
        if leaving.is_empty() {
            return Ok(());
        }
        self.take_apart()?;
        let mut computed = Vec::new();
        for (request, RequestRows { rows, .. }) in leaving.iter().enumerate() {
            for (row, branch) in rows.clone().zip(0..) {
                self.rows[row].reuses = false;
                let input = self.rows[row].middle_input.take();
                computed.extend(input.map(|input| (request, At { segment: self.segment, branch }, row, input)));
            }
        }
        let (mut places, mut sums) = (Vec::new(), Vec::new());
        for (request, at, row, input) in &computed {
            let Some(residuals) = leaving[*request].residuals.as_deref() else { continue };
            let output = &self.rows[*row].streams;
            sums.push(residuals.remembered(Stream::Hidden, &input.hidden_states, &output.hidden_states));
            places.push((*request, *at, Stream::Hidden));
            if let (Some(input), Some(output)) = (&input.encoder_hidden_states, &output.encoder_hidden_states)
                && self.keeps_encoder(residuals)
            {
                sums.push(residuals.remembered(Stream::Encoder, input, output));
                places.push((*request, *at, Stream::Encoder));
            }
        }
        for ((request, at, stream), value) in places.into_iter().zip(weighted_sums(&sums)?) {
            let Some(residuals) = leaving[request].residuals.as_deref_mut() else { continue };
            residuals.store(at, stream, value)?;
        }
        Ok(())
    }

    /// Runs `blocks` on the rows that do not sit them out.
    fn stretch(&mut self, blocks: Range<usize>, requests: &[RequestRows<'_>]) -> Result<()> {
        let num_blocks = self.num_blocks();
        let sits_out = |row: usize| {
            self.rows[row].reuses && {
                let request = requests.iter().find(|request| request.rows.contains(&row));
                let middle = request.and_then(|r| r.residuals.as_deref()).map(|r| middle(r, num_blocks));
                middle.is_some_and(|middle| middle.contains(&blocks.start))
            }
        };
        let active: Vec<usize> = (0..self.rows.len()).filter(|&row| !sits_out(row)).collect();
        if active.is_empty() || blocks.is_empty() {
            return self.take_apart();
        }
        let streams = match self.batch.take() {
            Some((rows, streams)) if rows == active => streams,
            batch => {
                self.batch = batch;
                self.take_apart()?;
                join(active.iter().map(|&row| &self.rows[row].streams))?
            }
        };
        let streams = if active.len() == self.rows.len() {
            self.dit.blocks(self.segment, blocks, streams, self.context)?
        } else {
            self.dit.blocks(self.segment, blocks, streams, &self.dit.select(self.context, &active)?)?
        };
        self.batch = Some((active, streams));
        Ok(())
    }

    /// Gives each row of the last stretch a view of its own tokens. Nothing is copied.
    fn take_apart(&mut self) -> Result<()> {
        let Some((active, streams)) = self.batch.take() else { return Ok(()) };
        let lengths = |of: &RowLayout| RowLayout::new(&active.iter().map(|&row| of.length(row)).collect::<Vec<_>>());
        let (hidden_rows, encoder_rows) = self.dit.layouts(self.segment, self.context);
        let views = split(&streams, &lengths(hidden_rows), &lengths(encoder_rows))?;
        for (&row, view) in active.iter().zip(views) {
            self.rows[row].streams = view.streams;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(Streams, Records)> {
        let all: Vec<usize> = (0..self.rows.len()).collect();
        let streams = match self.batch.take() {
            Some((rows, streams)) if rows == all => streams,
            batch => {
                self.batch = batch;
                self.take_apart()?;
                join(self.rows.iter().map(|row| &row.streams))?
            }
        };
        Ok((streams, self.records))
    }

    /// Returns the first blocks' residual in the row's hidden stream, as a weighted sum.
    fn first_blocks_added(&self, row: usize) -> WeightedTensors<'_> {
        vec![(1.0, &self.rows[row].streams.hidden_states), (-1.0, &self.rows[row].input)]
    }

    /// Whether anything after the middle blocks reads the text stream.
    fn keeps_encoder(&self, residuals: &RequestResiduals) -> bool {
        residuals.rules.config().bn_compute_blocks > 0 || self.dit.segments()[self.segment].encoder_is_used
    }

    fn tokens(&self, row: usize) -> usize {
        self.rows[row].input.dims()[0]
    }

    fn num_blocks(&self) -> usize {
        self.dit.segments()[self.segment].num_blocks
    }
}

/// Splits the batch into one view per row.
fn split(streams: &Streams, hidden_rows: &RowLayout, encoder_rows: &RowLayout) -> Result<Vec<Row>> {
    let view = |(hidden, encoder): (Range<usize>, Range<usize>)| {
        let hidden_states = streams.hidden_states.narrow(0, hidden.start, hidden.len())?;
        let text = streams.encoder_hidden_states.as_ref();
        let encoder_hidden_states = text.map(|text| text.narrow(0, encoder.start, encoder.len())).transpose()?;
        let input = hidden_states.clone();
        Ok(Row { streams: Streams { hidden_states, encoder_hidden_states }, input, middle_input: None, reuses: false })
    };
    hidden_rows.iter().zip(encoder_rows.iter()).map(view).collect()
}

/// Takes the next of the computed sums.
fn taken(sums: &mut impl Iterator<Item = Tensor>) -> Result<Tensor> {
    sums.next().ok_or_else(|| candle_core::Error::msg("a sum is missing. This is a bug."))
}

/// Concatenates the rows again.
fn join<'a>(rows: impl Iterator<Item = &'a Streams> + Clone) -> Result<Streams> {
    let hidden: Vec<_> = rows.clone().map(|streams| &streams.hidden_states).collect();
    let encoder: Option<Vec<_>> = rows.map(|streams| streams.encoder_hidden_states.as_ref()).collect();
    let encoder_hidden_states = encoder.map(|encoder| cat_rows(&encoder)).transpose()?;
    Ok(Streams { hidden_states: cat_rows(&hidden)?, encoder_hidden_states })
}
