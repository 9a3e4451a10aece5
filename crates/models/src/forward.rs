//! The transformer pass of a ragged batch, with its blocks run through the step cache.

use candle_core::{Result, Tensor};

use crate::dit::{Dit, DitRow};
use crate::residuals::RequestResiduals;
use crate::segment::{Records, RequestRows, run_segment};

/// One request's passes in a step, and its cache if it has one.
pub struct RequestPasses<'a> {
    /// One row per guidance branch, in the order of the cache's branches.
    pub rows: Vec<DitRow<'a>>,
    /// The request's step cache.
    pub residuals: Option<&'a mut RequestResiduals>,
}

/// The output of a pass.
pub struct Passes {
    /// The velocity of each row, `[tokens, channels]` in f32, request by request.
    pub velocities: Vec<Tensor>,
    /// `records[segment][row]`: what the cache did with each row, empty for a row without a cache.
    pub records: Vec<Records>,
}

impl Passes {
    /// The output of a batch without rows.
    pub(crate) fn none() -> Self {
        Passes { velocities: Vec::new(), records: Vec::new() }
    }
}

/// Runs the rows of all requests as one ragged batch. Each request's cache decides whether the middle blocks run for
/// its own rows.
///
/// # Errors
/// The device fails; the caches must not be used afterwards.
pub fn forward<D: Dit>(dit: &D, requests: Vec<RequestPasses<'_>>) -> Result<Passes> {
    let rows: Vec<DitRow<'_>> = requests.iter().flat_map(|request| request.rows.iter().copied()).collect();
    let (mut streams, context) = dit.begin(&rows)?;
    let mut first_row = 0;
    let mut requests: Vec<_> = requests
        .into_iter()
        .map(|request| {
            let rows = first_row..first_row + request.rows.len();
            first_row = rows.end;
            RequestRows { rows, residuals: request.residuals }
        })
        .collect();
    let mut records = Vec::new();
    for segment in 0..dit.segments().len() {
        let before = dit.enter(segment, streams, &context)?;
        let (after, of_segment) = run_segment(dit, segment, before, &context, &mut requests)?;
        streams = after;
        records.push(of_segment);
    }
    Ok(Passes { velocities: dit.end(&streams, &context)?, records })
}
