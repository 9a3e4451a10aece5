//! A calibration: measurements of a model in their file format, and the choice of plans from them.

use serde::{Deserialize, Serialize};

use super::fitted_plan::FittedPlan;
use super::planner::MAX_PLANNED_STEPS;
use super::run_plan::RunPlan;

/// Plans that replace full runs of a model, with their quality measured on the model's own pictures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct Calibration {
    /// The pipeline's class.
    pub class: String,
    /// Digest of the transformer's files.
    pub model: String,
    /// Steps of the runs that the plans replace.
    pub num_inference_steps: usize,
    /// The weight of two-pass guidance; `None` for one pass.
    pub guidance: Option<f64>,
    /// Number of pictures generated.
    pub pictures: usize,
    /// The plans, in ascending order of computed steps.
    pub plans: Vec<FittedPlan>,
}

/// The reason why there is no plan.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// Nothing was measured yet.
    #[error("nothing is known of the model yet")]
    Unknown,
    /// The calibration is of another model.
    #[error("the calibration is of another model, {calibrated}")]
    OtherModel {
        /// The calibrated model.
        calibrated: String,
    },
    /// The calibration has another number of passes per step.
    #[error("the plans were measured {}, and the request runs {}", guidance(*.calibrated), guidance(!*.calibrated))]
    Guidance {
        /// Whether the calibration used guidance.
        calibrated: bool,
    },
    /// The request has too few steps to skip one.
    #[error("the cheapest plan computes {least} steps, and the request has {given}: with so few there is none to skip")]
    Steps {
        /// Minimum number of steps that a plan computes.
        least: usize,
        /// Steps of the request.
        given: usize,
    },
}

fn guidance(guided: bool) -> &'static str {
    if guided { "with guidance (two passes a step)" } else { "without guidance (one pass a step)" }
}

/// The aim of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aim {
    /// Compute at most this share of the steps.
    Budget(f64),
    /// Compute as few steps as keep this PSNR in dB against the picture of all steps: in the mean, and within 4 dB
    /// below it for nine pictures of ten.
    Psnr(f64),
}

impl Aim {
    /// Checks its bound.
    ///
    /// # Errors
    /// The violated bound.
    pub fn check(self) -> Result<(), &'static str> {
        match self {
            Aim::Budget(share) if !(share > 0.0 && share <= 1.0) => {
                Err("be above 0 and at most 1, a share of the steps")
            }
            Aim::Psnr(promise) if !(0.0..=100.0).contains(&promise) => Err("be from 0 to 100, in dB"),
            Aim::Budget(_) | Aim::Psnr(_) => Ok(()),
        }
    }
}

/// How far nine pictures of ten may be below the promised PSNR, in dB.
const TENTH_BELOW: f64 = 4.0;

/// The properties of a request that a plan depends on.
#[derive(Clone, Copy, Debug)]
pub struct RunSpec<'a> {
    /// Digest of the transformer's files.
    pub model: &'a str,
    /// Number of steps.
    pub steps: usize,
    /// Whether a step runs two passes.
    pub guided: bool,
}

impl Calibration {
    /// Checks what the types do not express.
    ///
    /// # Errors
    /// The first problem, as words that continue "the calibration".
    pub fn check(&self) -> Result<(), String> {
        let steps = self.num_inference_steps;
        if !(3..=MAX_PLANNED_STEPS).contains(&steps) {
            return Err(format!("must have 3 to {MAX_PLANNED_STEPS} `num_inference_steps`. Given: {steps}"));
        }
        if self.plans.is_empty() {
            return Err("must have `plans`".into());
        }
        if !self.plans.windows(2).all(|pair| pair[0].computed.len() < pair[1].computed.len()) {
            return Err("must have `plans` of which each computes more steps than the one before".into());
        }
        self.plans.iter().try_for_each(|plan| plan.check(steps))
    }

    /// Whether its pictures took two passes per step.
    pub fn is_guided(&self) -> bool {
        self.guidance.is_some()
    }

    /// Whether the measurements apply to runs with this guidance weight: at most a tenth off the calibrated one.
    pub fn is_measured_at(&self, guidance: Option<f64>) -> bool {
        match (self.guidance, guidance) {
            (Some(measured), Some(asked)) => (asked - measured).abs() <= 0.1 * measured.abs(),
            (measured, asked) => measured.is_none() && asked.is_none(),
        }
    }

    /// Returns a plan for a run.
    ///
    /// # Errors
    /// The calibration is of another model or number of passes, or the run is too short.
    pub fn plan(&self, run: RunSpec<'_>, aim: Aim) -> Result<RunPlan, PlanError> {
        if run.model != self.model {
            return Err(PlanError::OtherModel { calibrated: self.class.clone() });
        }
        if run.guided != self.is_guided() {
            return Err(PlanError::Guidance { calibrated: self.is_guided() });
        }
        let least = self.plans[0].computed.len();
        if run.steps < least {
            return Err(PlanError::Steps { least, given: run.steps });
        }
        Ok(RunPlan::new(self.chosen(run.steps, aim), self.num_inference_steps, run.steps))
    }

    /// Returns the plan that fits best. If a budget has room for none, it is the plan with the fewest steps; if no plan
    /// keeps the promised PSNR, the one with the most.
    pub fn chosen(&self, steps: usize, aim: Aim) -> &FittedPlan {
        let fits = |plan: &&FittedPlan| plan.computed.len() <= steps;
        let last = self.plans.iter().rev().find(fits).unwrap_or(&self.plans[0]);
        match aim {
            Aim::Budget(share) => {
                let most = (share * steps as f64 + 1e-9).floor() as usize;
                self.plans.iter().rev().find(|plan| plan.computed.len() <= most).unwrap_or(&self.plans[0])
            }
            Aim::Psnr(promise) => {
                let keeps = |plan: &&FittedPlan| plan.psnr.mean >= promise && plan.psnr.tenth >= promise - TENTH_BELOW;
                self.plans.iter().filter(fits).find(keeps).unwrap_or(last)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fitted_plan::Psnr;
    use super::super::guard::VelocityChange;
    use super::super::jump::Jump;
    use super::*;

    /// Plans of 3 to 10 of 20 steps, each 4 dB better than its predecessor.
    fn calibration() -> Calibration {
        let plan = |count: usize| {
            let mean = 20.0 + 4.0 * count as f64;
            FittedPlan {
                computed: (0..count).map(|i| 20 * i / count).collect(),
                jumps: vec![Jump::euler(); count],
                changes: vec![VelocityChange::of(&[0.1, 0.2]); count - 1],
                psnr: Psnr { mean, tenth: mean - 3.0, least: mean - 9.0 },
            }
        };
        Calibration {
            class: "Some".into(),
            model: "digest".into(),
            num_inference_steps: 20,
            guidance: Some(3.0),
            pictures: 8,
            plans: (3..=10).map(plan).collect(),
        }
    }

    const RUN: RunSpec<'static> = RunSpec { model: "digest", steps: 20, guided: true };

    fn computed(steps: usize, aim: Aim) -> usize {
        let plan = calibration().plan(RunSpec { steps, ..RUN }, aim).unwrap();
        assert_eq!(plan.mask().len(), steps);
        (0..steps).filter(|&step| plan.mask().computes(step)).count()
    }

    #[test]
    fn a_budget_is_kept_at_every_number_of_steps() {
        for (steps, budget, expected) in
            [(20, 0.4, 8), (20, 1.0, 10), (20, 0.01, 3), (28, 0.25, 7), (50, 0.1, 5), (3, 1.0, 3), (3, 0.7, 3)]
        {
            assert_eq!(computed(steps, Aim::Budget(budget)), expected, "{budget} of {steps}");
        }
    }

    #[test]
    fn a_promise_takes_the_fewest_steps_that_keep_it() {
        for (promise, expected) in [(0.0, 3), (40.0, 5), (40.1, 6), (99.0, 10)] {
            assert_eq!(computed(20, Aim::Psnr(promise)), expected, "{promise}");
        }
        let mut calibration = calibration();
        calibration.plans[2].psnr.tenth = 35.0;
        assert_eq!(calibration.chosen(20, Aim::Psnr(40.0)).computed.len(), 6, "of ten pictures two are far below");
        assert_eq!(computed(4, Aim::Psnr(99.0)), 4, "there are no more steps");
    }

    #[test]
    fn what_cannot_be_planned_is_told() {
        let err = |run| calibration().plan(run, Aim::Budget(0.5)).unwrap_err().to_string();
        assert_eq!(err(RunSpec { model: "other", ..RUN }), "the calibration is of another model, Some");
        let expected = "the plans were measured with guidance (two passes a step), and the request runs without guidance \
                        (one pass a step)";
        assert_eq!(err(RunSpec { guided: false, ..RUN }), expected);
        assert_eq!(
            err(RunSpec { steps: 2, ..RUN }),
            "the cheapest plan computes 3 steps, and the request has 2: with so few there is none to skip"
        );
    }

    #[test]
    fn what_was_measured_is_of_guidance_nearby() {
        let calibration = calibration();
        for (guidance, expected) in [
            (Some(3.0), true),
            (Some(3.3), true),
            (Some(2.7), true),
            (Some(3.4), false),
            (Some(7.0), false),
            (None, false),
        ] {
            assert_eq!(calibration.is_measured_at(guidance), expected, "{guidance:?}");
        }
        assert!(Calibration { guidance: None, ..calibration }.is_measured_at(None));
    }

    #[test]
    fn what_was_not_written_by_this_program_is_refused() {
        let told = |change: fn(&mut Calibration)| {
            let mut calibration = calibration();
            change(&mut calibration);
            calibration.check().unwrap_err()
        };
        assert_eq!(calibration().check(), Ok(()));
        let of_jumps = "must have `jumps` of numbers up to 100, of 1 to 3 velocities and of no more than there are";
        for (change, expected) in [
            (
                (|c| c.num_inference_steps = 201) as fn(&mut Calibration),
                "must have 3 to 200 `num_inference_steps`. Given: 201",
            ),
            (|c| c.plans.clear(), "must have `plans`"),
            (|c| c.plans.swap(0, 1), "must have `plans` of which each computes more steps than the one before"),
            (
                |c| c.plans[0].computed = vec![1, 2, 3],
                "must have `computed` steps that rise from 0 and are below 20. Given: [1, 2, 3]",
            ),
            (
                |c| c.plans[0].computed[2] = 20,
                "must have `computed` steps that rise from 0 and are below 20. Given: [0, 6, 20]",
            ),
            (|c| drop(c.plans[0].jumps.pop()), "must have a jump for each of 3 computed steps. Given: 2"),
            (|c| c.plans[0].jumps[0].velocities = vec![1.0, 0.0], of_jumps),
            (|c| c.plans[0].jumps[1].velocities.clear(), of_jumps),
            (|c| c.plans[0].jumps[1].latents = f64::NAN, of_jumps),
            (
                |c| c.plans[0].changes.truncate(1),
                "must have finite `changes`, none or one for each of 3 computed steps but the first. Given: 1",
            ),
            (
                |c| c.plans[0].changes[0].spread = f64::NAN,
                "must have finite `changes`, none or one for each of 3 computed steps but the first. Given: 2",
            ),
            (|c| c.plans[0].psnr.mean = f64::INFINITY, "must have a `psnr` of at most 200 dB. Given: inf"),
            (|c| c.plans[0].jumps[1].latents = 1e3, of_jumps),
        ] {
            assert_eq!(told(change), expected);
        }
    }
}
