//! The state of a request's sampler, and how it uses each evaluation. The coefficients come from `diffusion`.

use candle_core::{Result, Tensor};
use diffusion::multistep::{SampleWeights, dpmpp_2m, unipc_corrected, unipc_level, unipc_predicted};
use diffusion::{Sampler, Sigmas};
use kernels::{WeightedTensors, add_weighted, weighted_sums};

/// The sampler of one request between two evaluations of the transformer. A clone shares the tensors, so that a failed
/// step can be repeated from the state before it.
#[derive(Clone)]
pub struct Solver(Memory);

#[derive(Clone)]
enum Memory {
    Euler,
    /// Between prediction and correction: the latents that both start from, and the velocity there.
    Heun(Option<(Tensor, Tensor)>),
    /// Clean latents estimated by the last evaluation.
    DpmPp2M(Option<Tensor>),
    UniPc(Option<Predicted>),
}

/// A step of UniPC, which the next evaluation corrects.
#[derive(Clone)]
struct Predicted {
    /// Corrected latents at the start of the step.
    start: Tensor,
    /// Clean latents estimated by the last evaluation, and by the one before.
    foreseen: Tensor,
    before: Option<Tensor>,
}

/// Input and result of an evaluation.
pub(crate) struct StepVelocity<'t> {
    pub(crate) latents: &'t Tensor,
    pub(crate) velocity: &'t Tensor,
    /// The latents after [`Solver::reach`] along the velocity, if the sampler uses them.
    pub(crate) moved: Option<Tensor>,
}

impl Solver {
    /// Creates the state before the first evaluation.
    pub fn new(sampler: Sampler) -> Self {
        Solver(match sampler {
            Sampler::Euler => Memory::Euler,
            Sampler::Heun => Memory::Heun(None),
            Sampler::DpmPp2M => Memory::DpmPp2M(None),
            Sampler::UniPc => Memory::UniPc(None),
        })
    }

    /// Returns the kind of sampler.
    pub fn sampler(&self) -> Sampler {
        match self.0 {
            Memory::Euler => Sampler::Euler,
            Memory::Heun(_) => Sampler::Heun,
            Memory::DpmPp2M(_) => Sampler::DpmPp2M,
            Memory::UniPc(_) => Sampler::UniPc,
        }
    }

    /// Returns how far `evaluation` (from 0) first moves along the velocity, if it does: the `dsigma` of [`Move`].
    pub(crate) fn reach(&self, sigmas: &Sigmas, evaluation: usize) -> Option<f32> {
        match &self.0 {
            Memory::Euler => Some(sigmas.dt(evaluation)),
            Memory::Heun(None) => Some(sigmas.dt(evaluation / 2)),
            Memory::Heun(Some(_)) => None,
            // These samplers estimate the clean latents first.
            Memory::DpmPp2M(_) => Some(-sigmas.sigma(evaluation)),
            Memory::UniPc(_) => Some(-unipc_level(sigmas.sigma(evaluation))),
        }
    }

    /// Advances `latents` past `evaluation` (from 0), which found `velocity` there, of the same shape.
    ///
    /// # Errors
    /// The device fails; the solver must not be used afterwards.
    pub fn advance(
        &mut self,
        sigmas: &Sigmas,
        evaluation: usize,
        latents: &Tensor,
        velocity: &Tensor,
    ) -> Result<Tensor> {
        let reach = self.reach(sigmas, evaluation);
        let moves: Vec<_> = reach.into_iter().map(|dsigma| Move { latents, velocity, dsigma }).collect();
        let moved = along(&moves)?.pop();
        self.advance_from(sigmas, evaluation, StepVelocity { latents, velocity, moved })
    }

    /// Advances like [`Solver::advance`], with the move by [`Solver::reach`] already done.
    ///
    /// # Errors
    /// The same as [`Solver::advance`].
    pub(crate) fn advance_from(
        &mut self,
        sigmas: &Sigmas,
        evaluation: usize,
        found: StepVelocity<'_>,
    ) -> Result<Tensor> {
        let StepVelocity { latents, velocity, moved } = found;
        let moved = || moved.ok_or_else(|| candle_core::Error::msg("the latents did not move. This is a bug."));
        match &mut self.0 {
            Memory::Euler => moved(),
            Memory::Heun(predicted) => match predicted.take() {
                None => {
                    // A copy: a single pass's velocity is a view, which would keep the whole batch's velocities alive.
                    *predicted = Some((latents.clone(), velocity.force_contiguous()?));
                    moved()
                }
                Some((start, first)) => {
                    let half = 0.5 * f64::from(sigmas.dt(evaluation / 2));
                    add_weighted(&start, &[(half, &first), (half, velocity)])
                }
            },
            Memory::DpmPp2M(before) => {
                let foreseen = moved()?;
                let known = std::iter::once(&foreseen).chain(&*before);
                let next = weighted(&dpmpp_2m(sigmas, evaluation), latents, known)?;
                *before = Some(foreseen);
                Ok(next)
            }
            Memory::UniPc(last) => {
                let foreseen = moved()?;
                let (start, before) = match last.take() {
                    None => (latents.clone(), None),
                    Some(Predicted { start, foreseen: last, before }) => {
                        let known = [&foreseen, &last].into_iter().chain(&before);
                        (weighted(&unipc_corrected(sigmas, evaluation), &start, known)?, Some(last))
                    }
                };
                let known = std::iter::once(&foreseen).chain(&before);
                let next = weighted(&unipc_predicted(sigmas, evaluation), &start, known)?;
                *last = Some(Predicted { start, foreseen, before });
                Ok(next)
            }
        }
    }

    /// Most tensors of the latents' size that a step holds beside its input and output. The tensors of the step before
    /// count too: they stay until this step has succeeded, so that it can be repeated if memory runs out.
    pub(crate) fn most_kept(sampler: Sampler) -> usize {
        match sampler {
            Sampler::Euler => 0,
            // The step's start and the velocity there; or the last and the current estimate.
            Sampler::Heun | Sampler::DpmPp2M => 2,
            // Three per step, one of which is shared with the step before.
            Sampler::UniPc => 5,
        }
    }
}

/// A move of latents along a velocity of the same shape: `latents + velocity * dsigma`.
pub(crate) struct Move<'t> {
    pub(crate) latents: &'t Tensor,
    pub(crate) velocity: &'t Tensor,
    pub(crate) dsigma: f32,
}

/// Returns the latents after each move, on a GPU in one launch.
pub(crate) fn along(moves: &[Move<'_>]) -> Result<Vec<Tensor>> {
    fn sum<'t>(step: &Move<'t>) -> WeightedTensors<'t> {
        vec![(1.0, step.latents), (f64::from(step.dsigma), step.velocity)]
    }
    weighted_sums(&moves.iter().map(sum).collect::<Vec<_>>())
}

/// Returns the weighted sum of `latents` and the estimates of clean latents, newest first.
fn weighted<'a>(
    weights: &SampleWeights,
    latents: &Tensor,
    foreseen: impl Iterator<Item = &'a Tensor>,
) -> Result<Tensor> {
    let terms: Vec<_> = weights.foreseen.iter().copied().zip(foreseen).collect();
    add_weighted(&(latents * weights.latents)?, &terms)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use diffusion::FlowMatchConfig;

    use super::*;

    fn tensor(numbers: &[f32]) -> Tensor {
        Tensor::new(numbers, &Device::Cpu).unwrap().reshape((1, numbers.len())).unwrap()
    }

    fn numbers(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// A velocity field with curved paths.
    fn velocity(latents: &Tensor, sigma: f32) -> Tensor {
        (latents.sin().unwrap() + f64::from(sigma * sigma)).unwrap()
    }

    fn sigmas(steps: usize) -> Sigmas {
        Sigmas::new(&FlowMatchConfig { shift: 3.0, ..FlowMatchConfig::default() }, steps, 64)
    }

    fn step(solver: &mut Solver, sigmas: &Sigmas, evaluation: usize, latents: &Tensor) -> Tensor {
        let sigma = sigmas.sigma(solver.sampler().level(evaluation));
        solver.advance(sigmas, evaluation, latents, &velocity(latents, sigma)).unwrap()
    }

    fn run(sampler: Sampler, steps: usize) -> Vec<f32> {
        let (mut solver, sigmas, mut latents) = (Solver::new(sampler), sigmas(steps), tensor(&[1.3, -0.4, 0.2]));
        assert_eq!(solver.sampler(), sampler);
        for evaluation in 0..sampler.num_evaluations(steps) {
            latents = step(&mut solver, &sigmas, evaluation, &latents);
        }
        numbers(&latents)
    }

    #[test]
    fn all_come_to_the_same_and_the_others_sooner() {
        let exact = run(Sampler::Heun, 2000);
        let error = |sampler, steps| {
            let ends = run(sampler, steps);
            ends.iter().zip(&exact).map(|(end, exact)| (end - exact).abs()).fold(0.0, f32::max)
        };
        let euler = error(Sampler::Euler, 20);
        for (name, sampler) in Sampler::NAMED.into_iter().skip(1) {
            let (few, many) = (error(sampler, 20), error(sampler, 200));
            println!("{name}: {few:.1e} in 20 steps, {many:.1e} in 200; euler {euler:.1e} in 20");
            assert!(few < euler / 3.0 && many < few / 10.0, "{name}: {few} {many} {euler}");
        }
        assert!(error(Sampler::Euler, 200) < euler / 5.0);
    }

    #[test]
    fn a_step_that_is_taken_back_is_the_same_again() {
        let sigmas = sigmas(8);
        for (name, sampler) in Sampler::NAMED {
            let (mut solver, mut latents) = (Solver::new(sampler), tensor(&[1.3, -0.4, 0.2]));
            for evaluation in 0..sampler.num_evaluations(8) {
                let mut taken_back = solver.clone();
                // Some more steps pass before the step is taken back.
                let mut lost = step(&mut taken_back, &sigmas, evaluation, &latents);
                if evaluation + 1 < sampler.num_evaluations(8) {
                    lost = step(&mut taken_back, &sigmas, evaluation + 1, &lost);
                }
                let mut again = solver.clone();
                let next = step(&mut solver, &sigmas, evaluation, &latents);
                assert_eq!(numbers(&step(&mut again, &sigmas, evaluation, &latents)), numbers(&next), "{name}");
                assert_ne!(numbers(&lost), numbers(&latents), "{name}");
                latents = next;
            }
        }
    }
}
