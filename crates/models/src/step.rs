//! One denoising step of a ragged batch: transformer passes through the step cache, guidance, Euler.

use candle_core::{Result, Tensor};
use diffusion::{BlockRun, StepReport};

use crate::dit::{Dit, DitRow};
use crate::guidance::true_cfg;
use crate::segment::{Records, RequestRows, run_segment};
use crate::state::RequestState;

/// Advances every request of `batch` by one step.
///
/// The passes of all requests, two of one that is guided, run as rows of one ragged batch; each
/// request's cache decides for its own rows whether their middle blocks run.
///
/// # Errors
/// The device fails; the states are not to be used again.
pub fn denoise_step<D: Dit>(dit: &D, batch: &mut [&mut RequestState]) -> Result<Vec<StepReport>> {
    let (velocities, records) = forward(dit, batch)?;
    let mut velocities = velocities.into_iter();
    let mut row = 0;
    let mut reports = Vec::with_capacity(batch.len());
    for state in batch.iter_mut() {
        let passes: Vec<Tensor> = velocities.by_ref().take(state.branches.len()).collect();
        let rows = row..row + passes.len();
        row = rows.end;
        reports.push(report(dit, state, records.iter().map(|segment| &segment[rows.clone()])));
        euler(state, &passes)?;
    }
    Ok(reports)
}

/// The velocity of each row, and what each row did in each segment.
fn forward<D: Dit>(dit: &D, batch: &mut [&mut RequestState]) -> Result<(Vec<Tensor>, Vec<Records>)> {
    let (mut streams, context) = dit.begin(&rows(batch))?;
    let mut first_row = 0;
    let mut requests: Vec<_> = batch
        .iter_mut()
        .map(|state| {
            let rows = first_row..first_row + state.branches.len();
            first_row = rows.end;
            RequestRows { rows, residuals: state.residuals.as_mut() }
        })
        .collect();
    let mut records = Vec::new();
    for segment in 0..dit.segments().len() {
        let (after, of_segment) = run_segment(dit, segment, streams, &context, &mut requests)?;
        streams = after;
        records.push(of_segment);
    }
    Ok((dit.end(&streams, &context)?, records))
}

/// The passes of all requests, the branches of one side by side.
fn rows<'a>(batch: &'a [&mut RequestState]) -> Vec<DitRow<'a>> {
    let of_request = |state: &'a RequestState| {
        state.branches.iter().map(|branch| DitRow {
            latents: &state.latents,
            token_grid: state.size.token_grid(),
            prompt_embeds: &branch.prompt_embeds,
            sigma: state.sigmas.sigma(state.step_index),
        })
    };
    batch.iter().flat_map(|state| of_request(state)).collect()
}

/// Guidance, then `latents += velocity * dt`.
fn euler(state: &mut RequestState, passes: &[Tensor]) -> Result<()> {
    let velocity = match passes {
        [cond] => cond.clone(),
        [cond, uncond] => true_cfg(cond, uncond, state.true_cfg_scale)?,
        _ => candle_core::bail!("a request has {} branches. This is a bug.", passes.len()),
    };
    let dt = f64::from(state.sigmas.dt(state.step_index));
    state.latents = (&state.latents + (velocity * dt)?)?;
    state.step_index += 1;
    Ok(())
}

/// What the step did for one request; `records` are those of its rows, a slice a segment.
fn report<'a, D: Dit>(
    dit: &D,
    state: &RequestState,
    records: impl Iterator<Item = &'a [Option<cache::StepRecord>]>,
) -> StepReport {
    let runs = dit.segments().iter().zip(records).flat_map(|(segment, records)| {
        state.branches.iter().zip(records).map(|(branch, record)| BlockRun {
            branch: branch.branch,
            segment: segment.name,
            reused: record.is_some_and(|record| record.decision.reused()),
            reason: record.map_or("uncached", |record| record.decision.reason().name()),
            residual_diff: record.and_then(|record| record.residual_diff),
        })
    });
    StepReport { step_index: state.step_index, runs: runs.collect() }
}
