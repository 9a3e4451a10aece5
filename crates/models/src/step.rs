//! One denoising step of a ragged batch: transformer passes, guidance, Euler.

use candle_core::{Result, Tensor};
use diffusion::{BlockRun, CfgBranch, StepReport};

use crate::dit::{Dit, DitRow};
use crate::guidance::true_cfg;
use crate::state::RequestState;

/// Advances every request of `batch` by one step.
///
/// The passes of all requests, two of one that is guided, run as rows of one ragged batch.
///
/// # Errors
/// The device fails; the states are not to be used again.
pub fn denoise_step<D: Dit>(dit: &D, batch: &mut [&mut RequestState]) -> Result<Vec<StepReport>> {
    let velocities = forward(dit, &rows(batch))?;
    let mut velocities = velocities.into_iter();
    for state in batch.iter_mut() {
        let passes: Vec<Tensor> = velocities.by_ref().take(state.branches.len()).collect();
        let velocity = match &passes[..] {
            [cond] => cond.clone(),
            [cond, uncond] => true_cfg(cond, uncond, state.true_cfg_scale)?,
            _ => candle_core::bail!("a request has {} branches. This is a bug.", passes.len()),
        };
        let dt = f64::from(state.sigmas.dt(state.step_index));
        state.latents = (&state.latents + (velocity * dt)?)?;
    }
    let reports = batch.iter_mut().map(|state| finish_step(dit, state)).collect();
    Ok(reports)
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

/// The velocity of each row.
fn forward<D: Dit>(dit: &D, rows: &[DitRow<'_>]) -> Result<Vec<Tensor>> {
    let (mut streams, context) = dit.begin(rows)?;
    for (segment, blocks) in dit.segments().iter().enumerate() {
        for index in 0..blocks.num_blocks {
            streams = dit.block(segment, index, &streams, &context)?;
        }
    }
    dit.end(&streams, &context)
}

fn finish_step<D: Dit>(dit: &D, state: &mut RequestState) -> StepReport {
    let step_index = state.step_index;
    state.step_index += 1;
    let computed = |branch: CfgBranch| {
        let run = move |segment| BlockRun { branch, segment, reused: false, reason: "uncached", residual_diff: None };
        dit.segments().iter().map(move |segment| run(segment.name))
    };
    StepReport { step_index, runs: state.branches.iter().flat_map(|branch| computed(branch.branch)).collect() }
}
