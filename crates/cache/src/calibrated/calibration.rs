//! What was measured of a model, as it is written to a file, and plans from it.

use serde::{Deserialize, Serialize};

use super::gram::Gram;
use super::planner::{MAX_PLANNED_STEPS, Planner, Track};
use super::run_plan::RunPlan;

/// The residuals of a model's uncached runs: how alike those of any two steps are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// The pipeline's class.
    pub class: String,
    /// Noise levels of the runs, from the first step's to the last's end, which fall.
    pub sigmas: Vec<f64>,
    /// The lists of blocks.
    pub segments: Vec<SegmentGrams>,
    /// Runs that the matrices are the means of.
    pub runs: usize,
}

/// What was measured of one list of blocks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentGrams {
    /// The list's name in the checkpoint.
    pub name: String,
    /// A matrix for each branch, the conditional one first.
    pub branches: Vec<Gram>,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// It was measured on another model.
    #[error("the calibration is of {calibrated}, and the model has {given}")]
    OtherModel {
        /// What was calibrated.
        calibrated: String,
        /// What the model is.
        given: String,
    },
    /// It was measured with fewer passes a step.
    #[error("the calibration has {calibrated} pass(es) a step, and the request makes {given}")]
    Branches {
        /// Branches that were measured.
        calibrated: usize,
        /// Branches of the request.
        given: usize,
    },
    /// Too few steps to leave one out, or too many to plan.
    #[error("plans are for 3 to {MAX_PLANNED_STEPS} steps. Given: {0}")]
    Steps(usize),
}

/// What a plan is to reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Aim {
    /// At most this share of the steps is computed.
    Budget(f64),
}

/// A request as a plan depends on it.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// Noise levels, from the first step's to the last's end.
    pub sigmas: &'a [f64],
    /// The weight of guidance by two branches; `None` where there is one.
    pub guidance: Option<f64>,
}

impl Calibration {
    /// Checks what its types do not say.
    ///
    /// # Errors
    /// The first thing that is wrong, in words that go on from "the calibration".
    pub fn check(&self) -> Result<(), String> {
        let steps = self.sigmas.len().saturating_sub(1);
        if !(3..=MAX_PLANNED_STEPS).contains(&steps) {
            return Err(format!("must have 4 to {} `sigmas`. Given: {}", MAX_PLANNED_STEPS + 1, self.sigmas.len()));
        }
        let falls = |pair: &[f64]| pair[0] > pair[1] && pair[1] >= 0.0 && pair[0].is_finite();
        if !self.sigmas.windows(2).all(falls) {
            return Err("must have `sigmas` that fall and are not below 0".into());
        }
        let branches = self.branches();
        for segment in &self.segments {
            if segment.branches.len() != branches {
                return Err(format!("must have as many matrices for `{}` as for its first segment", segment.name));
            }
            if segment.branches.iter().any(|gram| gram.steps() != steps) {
                return Err(format!("must have matrices of {steps} rows for `{}`", segment.name));
            }
        }
        if branches == 0 { Err("must have `segments` with matrices".into()) } else { Ok(()) }
    }

    /// Branches that were measured.
    pub fn branches(&self) -> usize {
        self.segments.first().map_or(0, |segment| segment.branches.len())
    }

    /// A plan for a run of a model with these lists of blocks.
    ///
    /// # Errors
    /// It was measured on another model or with fewer branches, or the run is too short or too long.
    pub fn plan(&self, run: Run<'_>, segments: &[&str], aim: Aim) -> Result<RunPlan, PlanError> {
        let steps = run.sigmas.len().saturating_sub(1);
        if !(3..=MAX_PLANNED_STEPS).contains(&steps) {
            return Err(PlanError::Steps(steps));
        }
        let calibrated: Vec<_> = self.segments.iter().map(|segment| segment.name.as_str()).collect();
        if calibrated != segments {
            return Err(PlanError::OtherModel { calibrated: calibrated.join(", "), given: segments.join(", ") });
        }
        let branches = if run.guidance.is_some() { 2 } else { 1 };
        if self.branches() < branches {
            return Err(PlanError::Branches { calibrated: self.branches(), given: branches });
        }
        let planner = Planner::new(self.tracks(run, branches), run.sigmas);
        let plans = planner.plans();
        let Aim::Budget(share) = aim;
        let most = (share * steps as f64 + 1e-9).floor() as usize;
        let fits = |computed: &usize| *computed <= most;
        let count = |mask: &crate::StepMask| (0..steps).filter(|&step| mask.computes(step)).count();
        let plan = plans.iter().rev().find(|plan| fits(&count(&plan.mask))).unwrap_or(&plans[0]);
        Ok(RunPlan::new(&planner, plan, branches))
    }

    /// Of every branch of the first segment, of the second, and so on.
    fn tracks(&self, run: Run<'_>, branches: usize) -> Vec<Track> {
        let scale = run.guidance.unwrap_or(1.0);
        let weights = [scale.powi(2), (scale - 1.0).powi(2)];
        // The last level is where the last step ends.
        let (from, to) = (&self.sigmas[..self.sigmas.len() - 1], &run.sigmas[..run.sigmas.len() - 1]);
        let resampled = |gram: &Gram| if from == to { gram.clone() } else { gram.resampled(from, to) };
        let of_segment = |segment: &SegmentGrams| {
            let grams = segment.branches.iter().take(branches).zip(weights);
            grams.map(|(gram, weight)| Track { gram: resampled(gram), weight }).collect::<Vec<_>>()
        };
        self.segments.iter().flat_map(of_segment).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of residuals on a circle, which turn by the level.
    fn calibration(steps: usize) -> Calibration {
        let sigmas: Vec<_> = (0..=steps).map(|i| 1.0 - i as f64 / steps as f64).collect();
        let gram = |speed: f64| {
            let product =
                |i: usize, j: usize| (speed * (sigmas[i] - sigmas[j])).cos() + if i == j { 1e-3 } else { 0.0 };
            let rows: Vec<_> = (0..steps).map(|i| (0..=i).map(|j| product(i, j)).collect()).collect();
            Gram::from_triangle(&rows).unwrap()
        };
        let segments = vec![SegmentGrams { name: "blocks".into(), branches: vec![gram(2.0), gram(3.0)] }];
        Calibration { class: "Some".into(), sigmas, segments, runs: 4 }
    }

    fn computed(calibration: &Calibration, steps: usize, guidance: Option<f64>, budget: f64) -> usize {
        let sigmas: Vec<_> = (0..=steps).map(|i| 1.0 - i as f64 / steps as f64).collect();
        let plan = calibration.plan(Run { sigmas: &sigmas, guidance }, &["blocks"], Aim::Budget(budget)).unwrap();
        assert_eq!(plan.mask().len(), steps);
        (0..steps).filter(|&step| plan.mask().computes(step)).count()
    }

    #[test]
    fn a_budget_is_kept_at_every_number_of_steps() {
        let calibration = calibration(20);
        for (steps, budget, expected) in
            [(20, 0.4, 8), (20, 1.0, 20), (20, 0.01, 4), (28, 0.5, 14), (50, 0.3, 15), (3, 0.7, 2)]
        {
            for guidance in [None, Some(3.0)] {
                assert_eq!(computed(&calibration, steps, guidance, budget), expected, "{budget} of {steps}");
            }
        }
    }

    #[test]
    fn what_cannot_be_planned_is_told() {
        let mut calibration = calibration(20);
        let sigmas = calibration.sigmas.clone();
        let err = |calibration: &Calibration, sigmas: &[f64], guidance, segments: &[&str]| {
            calibration.plan(Run { sigmas, guidance }, segments, Aim::Budget(0.5)).unwrap_err().to_string()
        };
        assert_eq!(err(&calibration, &sigmas[..3], None, &["blocks"]), "plans are for 3 to 200 steps. Given: 2");
        assert_eq!(
            err(&calibration, &sigmas, None, &["a", "b"]),
            "the calibration is of blocks, and the model has a, b"
        );
        calibration.segments[0].branches.pop();
        let told = "the calibration has 1 pass(es) a step, and the request makes 2";
        assert_eq!(err(&calibration, &sigmas, Some(3.0), &["blocks"]), told);
    }

    #[test]
    fn what_is_no_calibration_is_told() {
        let told = |change: fn(&mut Calibration)| {
            let mut calibration = calibration(5);
            change(&mut calibration);
            calibration.check().map_or_else(|why| why, |()| "nothing".into())
        };
        for (change, expected) in [
            ((|_| {}) as fn(&mut Calibration), "nothing"),
            (|c| c.sigmas.truncate(3), "must have 4 to 201 `sigmas`. Given: 3"),
            (|c| c.sigmas[2] = 0.9, "must have `sigmas` that fall and are not below 0"),
            (|c| c.sigmas[0] = f64::NAN, "must have `sigmas` that fall and are not below 0"),
            (|c| c.sigmas.insert(0, 2.0), "must have matrices of 6 rows for `blocks`"),
            (|c| c.segments.clear(), "must have `segments` with matrices"),
            (|c| c.segments[0].branches.clear(), "must have `segments` with matrices"),
        ] {
            assert_eq!(told(change), expected);
        }
    }
}
