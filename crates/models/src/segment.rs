//! Runs one segment's blocks on a ragged batch of which some rows skip the middle.
//!
//! Rows may differ in everything the cache can be told: how many first and last blocks always run,
//! when it reuses, whether there is a cache at all. The blocks are cut into *stretches* at every
//! depth where some row's middle begins or ends. Before a stretch, the rows whose middle begins
//! decide, with at most one copy from the device; those that reuse take their forecast and sit out
//! until their last blocks. The rows that run a stretch run it as one batch.

use std::collections::BTreeSet;
use std::ops::Range;

use cache::{RowObservation, StepRecord, Stream};
use candle_core::{Result, Tensor};
use kernels::{RowLayout, check_interrupt, residual_diffs};

use crate::dit::{Dit, Streams};
use crate::residuals::{At, RequestResiduals};

/// The passes of one request: neighbouring rows of the batch, and its cache if it has one.
pub(crate) struct RequestRows<'a> {
    pub(crate) rows: Range<usize>,
    pub(crate) residuals: Option<&'a mut RequestResiduals>,
}

/// One pass on its way through the segment.
struct Row {
    streams: Streams,
    /// The hidden stream before the first block.
    input: Tensor,
    /// Both streams before the middle blocks, in a step that computes them and has a cache.
    middle_input: Option<Streams>,
    /// Whether the row sits out until its last blocks.
    reuses: bool,
}

/// What each row did: its record, or nothing where it has no cache.
pub type Records = Vec<Option<StepRecord>>;

/// The rows of `streams` past all blocks of segment `segment`, in their order.
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
        return Ok((run_blocks(dit, segment, blocks, streams, context)?, vec![None; num_rows]));
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

/// Every depth at which some row's middle begins or ends, the segment's ends included.
fn depths(num_blocks: usize, requests: &[RequestRows<'_>]) -> Vec<usize> {
    let caches = requests.iter().filter_map(|request| request.residuals.as_deref());
    let middles = caches.flat_map(|residuals| {
        let middle = middle(residuals, num_blocks);
        [middle.start, middle.end]
    });
    BTreeSet::from_iter(middles.chain([0, num_blocks])).into_iter().collect()
}

/// The blocks that a step may skip.
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
    /// The rows that ran the last stretch, still side by side; what is in `rows` for them is older.
    batch: Option<(Vec<usize>, Streams)>,
}

impl<D: Dit> SegmentRun<'_, D> {
    /// Decides the rows whose middle blocks begin at `depth`.
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
        let mut diffs = self.measure(&entering)?.into_iter();
        for request in &mut entering {
            let RequestRows { rows, residuals } = request;
            let Some(residuals) = residuals.as_deref_mut() else { continue };
            let observe = |(row, residual_diff)| RowObservation { tokens: self.tokens(row), residual_diff };
            let observed: Vec<_> = rows.clone().zip(diffs.by_ref()).map(observe).collect();
            let records = residuals.rules.decide(self.segment, &observed);
            for ((row, branch), record) in rows.clone().zip(0..).zip(records) {
                self.records[row] = Some(record);
                self.begin_middle(row, branch, record.decision.reused(), residuals)?;
            }
        }
        Ok(())
    }

    /// The diff of every entering row that needs one, in one copy from the device.
    fn measure(&self, entering: &[&mut RequestRows<'_>]) -> Result<Vec<Option<f32>>> {
        let mut previous = Vec::new();
        for request in entering {
            let Some(residuals) = request.residuals.as_deref() else { continue };
            let tokens: Vec<_> = request.rows.clone().map(|row| self.tokens(row)).collect();
            let needed = residuals.rules.needs_diff(self.segment, &tokens);
            let stored = |branch: usize| residuals.first_blocks(self.segment, branch).filter(|_| needed[branch]);
            previous.extend(request.rows.clone().zip(0..).map(|(row, branch)| (row, stored(branch))));
        }
        if previous.iter().all(|(_, stored)| stored.is_none()) {
            return Ok(vec![None; previous.len()]);
        }
        let current = previous.iter().map(|&(row, _)| self.first_blocks_residual(row));
        let current = current.collect::<Result<Vec<_>>>()?;
        let layout = RowLayout::new(&previous.iter().map(|&(row, _)| self.tokens(row)).collect::<Vec<_>>());
        let previous: Vec<_> = previous.into_iter().map(|(_, stored)| stored).collect();
        residual_diffs(&Tensor::cat(&current, 0)?, &previous, &layout)
    }

    /// Stands a reusing row behind its middle blocks, or readies a computing one to store them.
    fn begin_middle(
        &mut self,
        row: usize,
        branch: usize,
        reuses: bool,
        residuals: &mut RequestResiduals,
    ) -> Result<()> {
        let at = At { segment: self.segment, branch };
        self.rows[row].reuses = reuses;
        if reuses {
            let streams = &self.rows[row].streams;
            let hidden_states = residuals.forecast(at, Stream::Hidden, &streams.hidden_states)?;
            let encoder_hidden_states = match &streams.encoder_hidden_states {
                Some(encoder) if self.keeps_encoder(residuals) => {
                    Some(residuals.forecast(at, Stream::Encoder, encoder)?)
                }
                other => other.clone(),
            };
            self.rows[row].streams = Streams { hidden_states, encoder_hidden_states };
        } else {
            residuals.store_first_blocks(self.segment, branch, self.first_blocks_residual(row)?);
            self.rows[row].middle_input = Some(self.rows[row].streams.clone());
        }
        Ok(())
    }

    /// Stores what the middle blocks that end at `depth` made of the rows that computed them.
    fn leave_middles(&mut self, depth: usize, requests: &mut [RequestRows<'_>]) -> Result<()> {
        let num_blocks = self.num_blocks();
        for request in requests {
            let RequestRows { rows, residuals } = request;
            let Some(residuals) = residuals.as_deref_mut() else { continue };
            if middle(residuals, num_blocks).end != depth {
                continue;
            }
            self.take_apart()?;
            for (row, branch) in rows.clone().zip(0..) {
                self.rows[row].reuses = false;
                let Some(input) = self.rows[row].middle_input.take() else { continue };
                let at = At { segment: self.segment, branch };
                let output = &self.rows[row].streams;
                residuals.store(at, Stream::Hidden, &input.hidden_states, &output.hidden_states)?;
                if let (Some(input), Some(output)) = (&input.encoder_hidden_states, &output.encoder_hidden_states)
                    && self.keeps_encoder(residuals)
                {
                    residuals.store(at, Stream::Encoder, input, output)?;
                }
            }
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
            run_blocks(self.dit, self.segment, blocks, streams, self.context)?
        } else {
            run_blocks(self.dit, self.segment, blocks, streams, &self.dit.select(self.context, &active)?)?
        };
        self.batch = Some((active, streams));
        Ok(())
    }

    /// Gives the rows of the last stretch their own views of it. Nothing is copied.
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

    /// What the first blocks added to the row's hidden stream.
    fn first_blocks_residual(&self, row: usize) -> Result<Tensor> {
        &self.rows[row].streams.hidden_states - &self.rows[row].input
    }

    /// Whether anything behind the middle blocks looks at the text stream.
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

fn run_blocks<D: Dit>(
    dit: &D,
    segment: usize,
    blocks: Range<usize>,
    streams: Streams,
    context: &D::Context,
) -> Result<Streams> {
    blocks.into_iter().try_fold(streams, |streams, index| {
        check_interrupt()?;
        dit.block(segment, index, &streams, context)
    })
}

/// Each row's view of the batch.
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

/// The rows side by side again.
fn join<'a>(rows: impl Iterator<Item = &'a Streams> + Clone) -> Result<Streams> {
    let hidden: Vec<_> = rows.clone().map(|streams| &streams.hidden_states).collect();
    let encoder: Option<Vec<_>> = rows.map(|streams| streams.encoder_hidden_states.as_ref()).collect();
    let encoder_hidden_states = encoder.map(|encoder| Tensor::cat(&encoder, 0)).transpose()?;
    Ok(Streams { hidden_states: Tensor::cat(&hidden, 0)?, encoder_hidden_states })
}
