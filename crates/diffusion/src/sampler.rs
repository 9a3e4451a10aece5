//! How a request gets from noise level to noise level.
//!
//! A sampler solves `dx/dsigma = v(x, sigma)` from noise to a picture, along the levels of the model's own schedule.
//! Each time the transformer is run is an *evaluation*, and an evaluation is what a [`Pipeline`](crate::Pipeline) calls a
//! step: Heun's method makes two of nearly every denoising step. What an evaluation does to the latents is
//! a weighted sum, whose weights are here and in [`multistep`](crate::multistep); the tensors are the pipeline's.

use serde::{Deserialize, Serialize};

/// A method. The default is what few-step (distilled) models were made for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Sampler {
    /// One evaluation a step, along the slope that it finds (`FlowMatchEulerDiscreteScheduler`).
    #[default]
    Euler,
    /// A step of Euler's, an evaluation where it ends, and the step again along the mean of both slopes; the last step is
    /// Euler's alone (`FlowMatchHeunDiscreteScheduler`).
    Heun,
    /// DPM-Solver++(2M): one evaluation a step, and the one before it (`DPMSolverMultistepScheduler`).
    DpmPp2M,
    /// UniPC of order 2: the same, and each evaluation corrects the step that led to it (`UniPCMultistepScheduler`).
    UniPc,
}

impl Sampler {
    /// All of them, by their names.
    pub const NAMED: [(&'static str, Sampler); 4] =
        [("euler", Sampler::Euler), ("heun", Sampler::Heun), ("dpmpp_2m", Sampler::DpmPp2M), ("unipc", Sampler::UniPc)];

    /// As requests and flags name it.
    pub fn name(self) -> &'static str {
        match self {
            Sampler::Euler => "euler",
            Sampler::Heun => "heun",
            Sampler::DpmPp2M => "dpmpp_2m",
            Sampler::UniPc => "unipc",
        }
    }

    /// As AUTOMATIC1111's web UI names it.
    pub fn title(self) -> &'static str {
        match self {
            Sampler::Euler => "Euler",
            Sampler::Heun => "Heun",
            Sampler::DpmPp2M => "DPM++ 2M",
            Sampler::UniPc => "UniPC",
        }
    }

    /// Evaluations of so many steps.
    pub fn num_evaluations(self, num_inference_steps: usize) -> usize {
        match self {
            Sampler::Heun => (2 * num_inference_steps).saturating_sub(1),
            Sampler::Euler | Sampler::DpmPp2M | Sampler::UniPc => num_inference_steps,
        }
    }

    /// Most steps of so many evaluations.
    pub fn steps_within(self, num_evaluations: usize) -> usize {
        match self {
            Sampler::Heun => num_evaluations.div_ceil(2),
            Sampler::Euler | Sampler::DpmPp2M | Sampler::UniPc => num_evaluations,
        }
    }

    /// The noise level, by its index, that an evaluation is made at.
    pub fn level(self, evaluation: usize) -> usize {
        match self {
            Sampler::Heun => evaluation.div_ceil(2),
            Sampler::Euler | Sampler::DpmPp2M | Sampler::UniPc => evaluation,
        }
    }

    /// The noise level, by its index, of the latents behind an evaluation.
    pub fn next_level(self, evaluation: usize) -> usize {
        match self {
            // Predicted by one evaluation and corrected by the next.
            Sampler::Heun => evaluation / 2 + 1,
            Sampler::Euler | Sampler::DpmPp2M | Sampler::UniPc => evaluation + 1,
        }
    }

    /// Fewest steps of which anything is not as Euler's: the first step of all starts from noise alone, of which a
    /// multistep method learns nothing, and the last ends at the picture that the last evaluation foresees.
    pub fn fewest_steps(self) -> usize {
        match self {
            Sampler::Euler => 1,
            Sampler::Heun => 2,
            Sampler::UniPc => 3,
            Sampler::DpmPp2M => 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::tests::{card, draft};
    use crate::{GuidanceKind, Limits, ModelCard, RequestDraft};

    #[test]
    fn a_distilled_model_is_for_euler() {
        let notes = |guidance, default_sampler, sampler| {
            let card = ModelCard { guidance, default_sampler, ..card() };
            let draft = RequestDraft { sampler, ..draft() };
            draft.build(&card, &Limits::default(), || 7).unwrap().remove(0).notes(&card)
        };
        let told = ["the model was distilled into few steps of euler: unipc may draw it less well"];
        let (none, cfg) = (GuidanceKind::None, GuidanceKind::Cfg);
        assert_eq!(notes(none, Sampler::Euler, Some(Sampler::UniPc)), told);
        assert_eq!(notes(none, Sampler::UniPc, None), told);
        assert!(notes(none, Sampler::UniPc, Some(Sampler::Euler)).is_empty());
        assert!(notes(none, Sampler::Euler, None).is_empty() && notes(cfg, Sampler::UniPc, None).is_empty());
    }

    #[test]
    fn heun_evaluates_every_level_but_the_first_twice() {
        // FlowMatchHeunDiscreteScheduler.timesteps: t0, t1, t1, t2, t2, ...
        let levels = |of: fn(Sampler, usize) -> usize| {
            (0..Sampler::Heun.num_evaluations(4)).map(|evaluation| of(Sampler::Heun, evaluation)).collect::<Vec<_>>()
        };
        assert_eq!(levels(Sampler::level), [0, 1, 1, 2, 2, 3, 3]);
        assert_eq!(levels(Sampler::next_level), [1, 1, 2, 2, 3, 3, 4]);
    }

    #[test]
    fn the_last_evaluation_ends_at_the_last_level() {
        for (name, sampler) in Sampler::NAMED {
            assert_eq!(sampler.name(), name);
            for steps in 1..=30 {
                let evaluations = sampler.num_evaluations(steps);
                let last = evaluations - 1;
                assert_eq!((sampler.level(last), sampler.next_level(last)), (steps - 1, steps), "{name}, {steps}");
                assert_eq!(sampler.steps_within(evaluations), steps, "{name}, {steps}");
                assert!(sampler.num_evaluations(sampler.steps_within(steps)) <= steps, "{name}, {steps}");
            }
        }
    }
}
