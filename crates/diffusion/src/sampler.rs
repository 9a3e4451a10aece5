//! Samplers: how a request gets from noise level to noise level.
//!
//! A sampler solves `dx/dsigma = v(x, sigma)` from noise to a picture, along the levels of the model's own schedule.
//! Each run of the transformer is an *evaluation*, and an evaluation is what a [`Pipeline`](crate::Pipeline) calls a
//! step: Heun's method takes two for nearly every denoising step. An evaluation updates the latents by a weighted sum.
//! The weights are here and in [`multistep`](crate::multistep); the tensors belong to the pipeline.

use serde::{Deserialize, Serialize};

/// A sampling method. The default is the one that few-step (distilled) models were trained for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Sampler {
    /// One evaluation per step, along its slope (`FlowMatchEulerDiscreteScheduler`).
    #[default]
    Euler,
    /// An Euler step, an evaluation at its end, and the step again along the mean of both slopes. The last step is a
    /// plain Euler step (`FlowMatchHeunDiscreteScheduler`).
    Heun,
    /// DPM-Solver++(2M): one evaluation per step, combined with the previous one (`DPMSolverMultistepScheduler`).
    DpmPp2M,
    /// UniPC of order 2: as above, and each evaluation also corrects the step that led to it
    /// (`UniPCMultistepScheduler`).
    UniPc,
}

impl Sampler {
    /// All samplers with their names.
    pub const NAMED: [(&'static str, Sampler); 4] =
        [("euler", Sampler::Euler), ("heun", Sampler::Heun), ("dpmpp_2m", Sampler::DpmPp2M), ("unipc", Sampler::UniPc)];

    /// The name in requests and flags.
    pub fn name(self) -> &'static str {
        match self {
            Sampler::Euler => "euler",
            Sampler::Heun => "heun",
            Sampler::DpmPp2M => "dpmpp_2m",
            Sampler::UniPc => "unipc",
        }
    }

    /// The name in AUTOMATIC1111's web UI.
    pub fn title(self) -> &'static str {
        match self {
            Sampler::Euler => "Euler",
            Sampler::Heun => "Heun",
            Sampler::DpmPp2M => "DPM++ 2M",
            Sampler::UniPc => "UniPC",
        }
    }

    /// Number of evaluations for this many steps.
    pub fn num_evaluations(self, num_inference_steps: usize) -> usize {
        match self {
            Sampler::Heun => (2 * num_inference_steps).saturating_sub(1),
            Sampler::Euler | Sampler::DpmPp2M | Sampler::UniPc => num_inference_steps,
        }
    }

    /// Maximum number of steps with this many evaluations.
    pub fn steps_within(self, num_evaluations: usize) -> usize {
        match self {
            Sampler::Heun => num_evaluations.div_ceil(2),
            Sampler::Euler | Sampler::DpmPp2M | Sampler::UniPc => num_evaluations,
        }
    }

    /// Index of the noise level that an evaluation runs at.
    pub fn level(self, evaluation: usize) -> usize {
        match self {
            Sampler::Heun => evaluation.div_ceil(2),
            Sampler::Euler | Sampler::DpmPp2M | Sampler::UniPc => evaluation,
        }
    }

    /// Index of the noise level of the latents after an evaluation.
    pub fn next_level(self, evaluation: usize) -> usize {
        match self {
            // Predicted by one evaluation and corrected by the next.
            Sampler::Heun => evaluation / 2 + 1,
            Sampler::Euler | Sampler::DpmPp2M | Sampler::UniPc => evaluation + 1,
        }
    }

    /// Minimum number of steps at which the result differs from Euler's. The first step of a multistep method has no
    /// history, and the last ends at the clean latents that the last evaluation predicts.
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
