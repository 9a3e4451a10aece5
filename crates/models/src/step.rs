//! One step of a ragged batch: transformer passes through the step cache, guidance, each request's sampler.

use candle_core::{Result, Tensor};
use diffusion::{BlockRun, StepReport};
use kernels::residual_diffs;

use crate::dit::{BlockList, Dit, DitRow};
use crate::forward::{Passes, RequestPasses, forward};
use crate::guidance::guided;
use crate::planned::PlannedRun;
use crate::segment::Records;
use crate::solver::{Move, StepVelocity, along};
use crate::state::RequestState;

/// Advances every request of `batch` by one step: an evaluation of the transformer, then the sampler's update.
///
/// The passes of all requests run as rows of one ragged batch; a guided request has two. Each request's cache decides
/// whether the middle blocks run for its own rows. A request whose plan skips the step has no rows.
///
/// # Errors
/// The device fails; the states must not be used afterwards.
pub fn denoise_step<D: Dit>(dit: &D, batch: &mut [&mut RequestState]) -> Result<Vec<StepReport>> {
    let evaluated: Vec<_> = batch.iter_mut().filter(|state| state.is_evaluated()).map(|state| passes(state)).collect();
    let Passes { velocities, records } = if evaluated.is_empty() { Passes::none() } else { forward(dit, evaluated)? };
    let mut rest = &velocities[..];
    let of_request = |state: &&mut RequestState| {
        let (passes, others) = rest.split_at(state.branches.len());
        rest = others;
        (state.guidance, passes)
    };
    let evaluated: Vec<_> = batch.iter().filter(|state| state.is_evaluated()).map(of_request).collect();
    let mut guided = guided(&evaluated)?.into_iter();
    let found: Vec<_> = batch.iter().map(|state| if state.is_evaluated() { guided.next() } else { None }).collect();
    let changes = changes(batch, &found)?;
    let mut row = 0;
    let (mut reports, mut velocities) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
    for ((state, found), change) in batch.iter_mut().zip(found).zip(changes) {
        let rows = if found.is_some() { row..row + state.branches.len() } else { row..row };
        row = rows.end;
        let (velocity, records) = match &mut state.planned {
            Some(planned) => {
                let (record, velocity) = planned.advance(&state.latents, found, change)?;
                (velocity, vec![vec![Some(record); state.branches.len()]; dit.segments().len()])
            }
            None => {
                let of_rules = records.iter().map(|records| records[rows.clone()].to_vec()).collect();
                (found.expect("a request without a plan is evaluated. This is a bug."), of_rules)
            }
        };
        reports.push(report(dit.segments(), state, &records));
        velocities.push(velocity);
    }
    advance(batch, &velocities)?;
    Ok(reports)
}

/// Measures the relative change of each request's velocity, where its plan needs it.
fn changes(batch: &[&mut RequestState], found: &[Option<Tensor>]) -> Result<Vec<Option<f32>>> {
    let compared = batch.iter().map(|state| state.planned.as_ref().and_then(PlannedRun::compared));
    let pairs: Vec<_> = found.iter().zip(compared).map(|(found, compared)| found.as_ref().zip(compared)).collect();
    // One measurement for all requests, because it copies numbers from the device.
    let mut changes = residual_diffs(&pairs.iter().flatten().copied().collect::<Vec<_>>())?.into_iter();
    Ok(pairs.iter().map(|pair| pair.and_then(|_| changes.next())).collect())
}

/// Returns the request's passes in this step, one per branch.
fn passes(state: &mut RequestState) -> RequestPasses<'_> {
    let guidance = state.guidance.embedded();
    let sigma = state.sigmas.sigma(state.sampler().level(state.step_index));
    let rows = state.branches.iter().map(|branch| DitRow {
        latents: &state.latents,
        token_grid: state.size.token_grid(),
        references: &state.references,
        prompt_embeds: &branch.prompt_embeds,
        sigma,
        guidance,
    });
    RequestPasses { rows: rows.collect(), residuals: state.residuals.as_mut() }
}

/// Applies each request's sampler or plan, restores what a mask keeps, and computes the estimate for a due preview. All
/// moves along velocities run in one batch.
fn advance(batch: &mut [&mut RequestState], velocities: &[Tensor]) -> Result<()> {
    let moves = batch.iter().zip(velocities).flat_map(|(state, velocity)| {
        let reach = state.solver.reach(&state.sigmas, state.step_index);
        let dsigmas = [foresight(state), reach].into_iter().flatten();
        dsigmas.map(move |dsigma| Move { latents: &state.latents, velocity, dsigma })
    });
    let mut moved = along(&moves.collect::<Vec<_>>())?.into_iter();
    for (state, velocity) in batch.iter_mut().zip(velocities) {
        let kept = |latents: Tensor, sigma: f32| match &state.masked {
            Some(masked) => masked.blend(&latents, sigma),
            None => Ok(latents),
        };
        let foreseen = foresight(state).and_then(|_| moved.next());
        let estimate = foreseen.map(|latents| kept(latents, 0.0)).transpose()?;
        let moved = state.solver.reach(&state.sigmas, state.step_index).and_then(|_| moved.next());
        let found = StepVelocity { latents: &state.latents, velocity, moved };
        let latents = state.solver.advance_from(&state.sigmas, state.step_index, found)?;
        let next = state.sigmas.sigma(state.sampler().next_level(state.step_index));
        let latents = kept(latents, next)?;
        if let Some(learning) = &mut state.learning {
            learning.push(latents.clone());
        }
        (state.estimate, state.latents) = (estimate, latents);
        state.step_index += 1;
    }
    Ok(())
}

/// Returns the `dsigma` along the velocity to the clean latents, if a preview is due.
fn foresight(state: &RequestState) -> Option<f32> {
    let is_due = state.previews.is_some_and(|previews| previews.is_due(state.step_index, state.num_steps()));
    is_due.then(|| -state.sigmas.sigma(state.sampler().level(state.step_index)))
}

/// Builds the report of one request's step from `records[segment][branch]`.
fn report(segments: &[BlockList], state: &RequestState, records: &[Records]) -> StepReport {
    let runs = segments.iter().zip(records).flat_map(|(segment, records)| {
        state.branches.iter().zip(records).map(|(branch, record)| BlockRun {
            branch: branch.branch,
            segment: segment.name,
            reused: record.is_some_and(|record| record.decision.reused()),
            reason: record.map_or("uncached", |record| record.decision.reason().name()),
            residual_diff: record.and_then(|record| record.residual_diff),
        })
    });
    let runs: Vec<_> = runs.collect();
    StepReport {
        step_index: state.step_index,
        computed_share: computed_share(segments, state, &runs),
        also_computed: state.planned.as_ref().map_or(0, PlannedRun::also_computed),
        runs,
    }
}

/// Returns the share of the blocks that ran, over all segments and branches.
fn computed_share(segments: &[BlockList], state: &RequestState, runs: &[BlockRun]) -> f64 {
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
