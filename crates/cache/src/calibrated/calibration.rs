//! What was measured of a model, as it is written to a file, and plans from it.

use serde::{Deserialize, Serialize};

use super::fitted_plan::FittedPlan;
use super::planner::MAX_PLANNED_STEPS;
use super::run_plan::RunPlan;

/// How few steps of a model stand for many, and how well: measured on pictures of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct Calibration {
    /// The pipeline's class.
    pub class: String,
    /// A digest of the transformer's files.
    pub model: String,
    /// Steps of the runs that the plans stand for.
    pub num_inference_steps: usize,
    /// The weight of guidance by two passes a step; `None` where there was one.
    pub guidance: Option<f64>,
    /// Pictures that were made.
    pub pictures: usize,
    /// The plans, by the number of steps that they compute.
    pub plans: Vec<FittedPlan>,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// Nothing was measured yet.
    #[error("nothing is known of the model yet")]
    Unknown,
    /// It was measured on another model.
    #[error("the calibration is of another model, {calibrated}")]
    OtherModel {
        /// What was calibrated.
        calibrated: String,
    },
    /// It was measured with other passes a step.
    #[error("the plans were measured {}, and the request runs {}", guidance(*.calibrated), guidance(!*.calibrated))]
    Guidance {
        /// Whether it was measured with guidance.
        calibrated: bool,
    },
    /// Too few steps to leave one out.
    #[error("the cheapest plan computes {least} steps, and the request has {given}: with so few there is none to skip")]
    Steps {
        /// Fewest steps that a plan computes.
        least: usize,
        /// Steps of the request.
        given: usize,
    },
}

fn guidance(guided: bool) -> &'static str {
    if guided { "with guidance (two passes a step)" } else { "without guidance (one pass a step)" }
}

/// What a plan is to reach.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aim {
    /// At most this share of the steps is computed.
    Budget(f64),
    /// As few steps as keep the pictures this like to those of all steps, in dB: in the mean, and nine of ten within 4 dB.
    Psnr(f64),
}

impl Aim {
    /// Checks its bound.
    ///
    /// # Errors
    /// The bound that it is outside of.
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

/// What nine pictures of ten may be below a promise, in dB.
const TENTH_BELOW: f64 = 4.0;

/// A request as a plan depends on it.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// A digest of the transformer's files.
    pub model: &'a str,
    /// Steps.
    pub steps: usize,
    /// Whether a step makes two passes.
    pub guided: bool,
}

impl Calibration {
    /// Checks what its types do not say.
    ///
    /// # Errors
    /// The first thing that is wrong, in words that go on from "the calibration".
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

    /// Whether its pictures took two passes a step.
    pub fn is_guided(&self) -> bool {
        self.guidance.is_some()
    }

    /// Whether what was measured says something of runs whose guidance has this weight: of one that is a tenth off, at most.
    pub fn is_measured_at(&self, guidance: Option<f64>) -> bool {
        match (self.guidance, guidance) {
            (Some(measured), Some(asked)) => (asked - measured).abs() <= 0.1 * measured.abs(),
            (measured, asked) => measured.is_none() && asked.is_none(),
        }
    }

    /// A plan for a run.
    ///
    /// # Errors
    /// It was measured on another model or with other passes, or the run is too short.
    pub fn plan(&self, run: Run<'_>, aim: Aim) -> Result<RunPlan, PlanError> {
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

    /// The plan that fits best; the fewest steps where a budget has room for none, and the most where a promise asks for more
    /// than any keeps.
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
    use super::super::guard::Change;
    use super::super::jump::Jump;
    use super::*;

    /// Plans of 3 to 10 of 20 steps, each 4 dB better than the one before.
    fn calibration() -> Calibration {
        let plan = |count: usize| {
            let mean = 20.0 + 4.0 * count as f64;
            FittedPlan {
                computed: (0..count).map(|i| 20 * i / count).collect(),
                jumps: vec![Jump::euler(); count],
                changes: vec![Change::of(&[0.1, 0.2]); count - 1],
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

    const RUN: Run<'static> = Run { model: "digest", steps: 20, guided: true };

    fn computed(steps: usize, aim: Aim) -> usize {
        let plan = calibration().plan(Run { steps, ..RUN }, aim).unwrap();
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
        assert_eq!(err(Run { model: "other", ..RUN }), "the calibration is of another model, Some");
        let expected = "the plans were measured with guidance (two passes a step), and the request runs without guidance \
                        (one pass a step)";
        assert_eq!(err(Run { guided: false, ..RUN }), expected);
        assert_eq!(
            err(Run { steps: 2, ..RUN }),
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
