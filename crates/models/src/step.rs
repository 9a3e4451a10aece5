//! One denoising step of a ragged batch: transformer passes through the step cache, guidance, Euler.

use candle_core::{Result, Tensor};
use diffusion::{BlockRun, StepReport};

use crate::dit::{Dit, DitRow, Segment};
use crate::forward::{Passes, RequestPasses, forward};
use crate::guidance::true_cfg;
use crate::segment::Records;
use crate::state::RequestState;

/// Advances every request of `batch` by one step.
///
/// The passes of all requests, two of one that is guided, run as rows of one ragged batch; each
/// request's cache decides for its own rows whether their middle blocks run.
///
/// # Errors
/// The device fails; the states are not to be used again.
pub fn denoise_step<D: Dit>(dit: &D, batch: &mut [&mut RequestState]) -> Result<Vec<StepReport>> {
    let Passes { velocities, records } = forward(dit, batch.iter_mut().map(|state| passes(state)).collect())?;
    let mut velocities = velocities.into_iter();
    let mut row = 0;
    let mut reports = Vec::with_capacity(batch.len());
    for state in batch.iter_mut() {
        let passes: Vec<Tensor> = velocities.by_ref().take(state.branches.len()).collect();
        reports.push(report(dit.segments(), state, row, &records));
        row += passes.len();
        euler(state, &passes)?;
    }
    Ok(reports)
}

/// The request's passes of this step, one a branch.
fn passes(state: &mut RequestState) -> RequestPasses<'_> {
    let rows = state.branches.iter().map(|branch| DitRow {
        latents: &state.latents,
        token_grid: state.size.token_grid(),
        references: &[],
        prompt_embeds: &branch.prompt_embeds,
        sigma: state.sigmas.sigma(state.step_index),
        guidance: None,
    });
    RequestPasses { rows: rows.collect(), residuals: state.residuals.as_mut() }
}

/// Guidance, then `latents += velocity * dt`; and what a preview that is due needs.
fn euler(state: &mut RequestState, passes: &[Tensor]) -> Result<()> {
    let velocity = match passes {
        [cond] => cond.clone(),
        [cond, uncond] => true_cfg(cond, uncond, state.true_cfg_scale)?,
        _ => candle_core::bail!("a request has {} branches. This is a bug.", passes.len()),
    };
    let (step_index, num_inference_steps) = (state.step_index, state.sigmas.num_inference_steps());
    let is_due = state.previews.is_some_and(|previews| previews.is_due(step_index, num_inference_steps));
    let latents_after = |dsigma: f32| &state.latents + (&velocity * f64::from(dsigma))?;
    state.estimate = is_due.then(|| latents_after(-state.sigmas.sigma(step_index))).transpose()?;
    state.latents = latents_after(state.sigmas.dt(step_index))?;
    state.step_index += 1;
    Ok(())
}

/// What the step did for one request, whose rows begin at `first_row`.
fn report(segments: &[Segment], state: &RequestState, first_row: usize, records: &[Records]) -> StepReport {
    let runs = segments.iter().zip(records).flat_map(|(segment, records)| {
        state.branches.iter().zip(&records[first_row..]).map(|(branch, record)| BlockRun {
            branch: branch.branch,
            segment: segment.name,
            reused: record.is_some_and(|record| record.decision.reused()),
            reason: record.map_or("uncached", |record| record.decision.reason().name()),
            residual_diff: record.and_then(|record| record.residual_diff),
        })
    });
    let runs: Vec<_> = runs.collect();
    StepReport { step_index: state.step_index, computed_share: computed_share(segments, state, &runs), runs }
}

/// The share of the blocks that ran, over all segments and branches.
fn computed_share(segments: &[Segment], state: &RequestState, runs: &[BlockRun]) -> f64 {
    let always = state.residuals.as_ref().map_or(0, |residuals| residuals.config().always_computed_blocks());
    let (mut ran, mut all) = (0, 0);
    for (segment, runs) in segments.iter().zip(runs.chunks(state.branches.len())) {
        for run in runs {
            ran += if run.reused { always } else { segment.num_blocks };
            all += segment.num_blocks;
        }
    }
    ran as f64 / all as f64
}
