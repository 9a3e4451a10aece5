//! Calibration: measures which denoising steps of a model can be skipped, and fits the jumps over them.

use std::collections::VecDeque;

use cache::{
    Calibration, EQUAL, FittedPlan, Gram, Jump, JumpFit, MAX_PLANNED_STEPS, MEMORY, Planner, Psnr, StepPath,
    VelocityChange,
};
use candle_core::{Result as TensorResult, Tensor};
use diffusion::{ImageRequest, Interrupt, InvalidRequest, PipelineError, RgbImage, psnr};
use kernels::{inner_products, residual_diffs};
use models::{AnyPipeline, RequestState, along_jump};

use crate::error::Error;

/// Minimum number of steps that a plan computes.
const LEAST: usize = 3;

/// A reference picture whose steps were all computed.
struct Whole {
    /// State before the first step.
    start: RequestState,
    /// Latents at every noise level.
    latents: Vec<Tensor>,
    picture: RgbImage,
}

/// Fits the plans of `pipeline` on pictures of `requests`, which all have the same number of steps. `model` is the
/// digest of the transformer. `progress` receives the transformer evaluations done and in total.
///
/// # Errors
/// The steps are too few or too many to plan, or the device fails.
pub(crate) fn calibrate(
    pipeline: &mut AnyPipeline,
    model: String,
    requests: &[ImageRequest],
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Calibration, Error> {
    let first = requests.first().ok_or_else(|| InvalidRequest::new("prompts", "not be empty", "none"))?;
    let (steps, guidance) = (first.params.num_inference_steps, first.params.guidance);
    if !(LEAST..=MAX_PLANNED_STEPS).contains(&steps) {
        let bound = format!("be between {LEAST} and {MAX_PLANNED_STEPS}");
        return Err(InvalidRequest::new("num_inference_steps", bound, steps).into());
    }
    let counts = lengths(steps);
    let all = requests.len() * (steps + counts.iter().sum::<usize>());
    let mut done = 0;
    let mut evaluated = |count| {
        done += count;
        progress(done, all);
    };
    let mut wholes: Vec<Whole> = Vec::new();
    for request in requests {
        wholes.push(whole(pipeline, request)?);
        evaluated(steps);
    }
    let sigmas: Vec<_> = wholes[0].start.sigmas().as_slice().iter().copied().map(f64::from).collect();
    let paths = Planner::new(gram(&wholes)?, &sigmas).paths();
    let mut plans = Vec::new();
    for path in paths.iter().filter(|path| counts.contains(&path.computed.len())) {
        plans.push(fitted(pipeline, &wholes, path, &sigmas, &mut evaluated)?);
    }
    plans.push(FittedPlan::whole(steps));
    Ok(Calibration {
        class: pipeline.card().class.clone(),
        model,
        num_inference_steps: steps,
        guidance: guidance.two_pass_scale(),
        pictures: wholes.len(),
        plans,
    })
}

/// Numbers of computed steps to fit plans for, out of `steps`: every number up to half, and every second one above
/// half. A short run has a plan for every number.
fn lengths(steps: usize) -> Vec<usize> {
    const SHORT: usize = 8;
    let is_measured = |count: &usize| steps <= SHORT || *count <= steps / 2 || (steps - count).is_multiple_of(2);
    (LEAST..steps).filter(is_measured).collect()
}

fn whole(pipeline: &mut AnyPipeline, request: &ImageRequest) -> Result<Whole, Error> {
    let start = pipeline.prepare(request, &Interrupt::default())?;
    let (mut state, mut latents) = (start.clone(), vec![start.latents().clone()]);
    for _ in 0..request.params.num_inference_steps {
        pipeline.step(&mut [&mut state], &Interrupt::default())?;
        latents.push(state.latents().clone());
    }
    Ok(Whole { start, latents, picture: pipeline.decode(state, &Interrupt::default())? })
}

fn gram(wholes: &[Whole]) -> Result<Gram, Error> {
    let mut sum = models::gram(&wholes[0].latents).map_err(failed)?;
    for whole in &wholes[1..] {
        sum.add(&models::gram(&whole.latents).map_err(failed)?);
    }
    Ok(sum)
}

/// A picture that is being denoised along a plan.
struct Run<'a> {
    whole: &'a Whole,
    state: RequestState,
    /// Velocities of the last computed steps, the newest first.
    velocities: VecDeque<Tensor>,
}

/// Fits the jumps of a path in order, each on runs that took the earlier jumps.
fn fitted(
    pipeline: &mut AnyPipeline,
    wholes: &[Whole],
    path: &StepPath,
    sigmas: &[f64],
    evaluated: &mut dyn FnMut(usize),
) -> Result<FittedPlan, Error> {
    let begin = |whole| Run { whole, state: whole.start.clone(), velocities: VecDeque::new() };
    let mut runs: Vec<_> = wholes.iter().map(begin).collect();
    let (mut jumps, mut changes) = (Vec::new(), Vec::new());
    let ends = path.computed.iter().skip(1).copied().chain([sigmas.len() - 1]);
    for (count, (&step, end)) in path.computed.iter().zip(ends).enumerate() {
        let mut fit = JumpFit::new(Jump::velocities_behind(count));
        for run in &mut runs {
            let before = run.state.latents().clone();
            pipeline.step(&mut [&mut run.state], &Interrupt::default())?;
            run.measure(&mut fit, before, (step, end), sigmas).map_err(failed)?;
            evaluated(1);
        }
        changes.extend(changed(&runs).map_err(failed)?);
        let jump = fit.jump();
        for run in &mut runs {
            run.go(&jump, end, sigmas[end] - sigmas[step]).map_err(failed)?;
        }
        jumps.push(jump);
    }
    let likeness = |run: Run<'_>| -> Result<f64, Error> {
        let picture = pipeline.decode(run.state, &Interrupt::default())?;
        Ok(psnr(&run.whole.picture, &picture).unwrap_or(EQUAL))
    };
    let psnr = Psnr::of(runs.into_iter().map(likeness).collect::<Result<_, _>>()?);
    Ok(FittedPlan { computed: path.computed.clone(), jumps, changes, psnr })
}

/// Change of the velocities since the previous computed step; `None` at the first one.
fn changed(runs: &[Run<'_>]) -> TensorResult<Option<VelocityChange>> {
    let pairs: Option<Vec<_>> = runs.iter().map(|run| run.velocities.front().zip(run.velocities.get(1))).collect();
    let Some(pairs) = pairs else { return Ok(None) };
    let changes = residual_diffs(&pairs)?.into_iter().map(f64::from).collect::<Vec<_>>();
    Ok(Some(VelocityChange::of(&changes)))
}

impl Run<'_> {
    /// Adds the step's velocity to the sums of its jump, and restores the latents before the step.
    fn measure(
        &mut self,
        fit: &mut JumpFit,
        before: Tensor,
        (step, end): (usize, usize),
        sigmas: &[f64],
    ) -> TensorResult<()> {
        let velocity = ((self.state.latents() - &before)? / (sigmas[step + 1] - sigmas[step]))?;
        self.velocities.push_front(velocity);
        self.velocities.truncate(MEMORY);
        let way = ((&self.whole.latents[end] - &before)? / (sigmas[end] - sigmas[step]))?;
        let vectors: Vec<_> = self.velocities.iter().chain([&before, &way]).collect();
        let rows: TensorResult<Vec<_>> = vectors.iter().map(|vector| inner_products(vector, &vectors)).collect();
        fit.add(&rows?);
        self.state = self.state.clone().resumed_at(step, before);
        Ok(())
    }

    /// Takes the jump.
    fn go(&mut self, jump: &Jump, end: usize, dsigma: f64) -> TensorResult<()> {
        let velocity = along_jump(jump, self.state.latents(), &self.velocities)?;
        let latents = (self.state.latents() + (velocity * dsigma)?)?;
        self.state = self.state.clone().resumed_at(end, latents);
        Ok(())
    }
}

fn failed(err: candle_core::Error) -> Error {
    PipelineError::Model(err.to_string()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_runs_have_plans_too() {
        assert_eq!(lengths(3), [0; 0], "there is nothing to skip");
        assert_eq!(lengths(4), [3]);
        assert_eq!(lengths(8), [3, 4, 5, 6, 7]);
        assert_eq!(lengths(12), [3, 4, 5, 6, 8, 10]);
    }
}
