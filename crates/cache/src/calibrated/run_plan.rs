//! A plan as the caches of one request follow it.

use std::sync::Arc;

use super::planner::{Planner, StepPlan};
use crate::StepMask;

/// Which steps of a request are computed, and what stands for the others.
#[derive(Clone, Debug, PartialEq)]
pub struct RunPlan {
    mask: StepMask,
    /// `weights[segment][branch]`
    weights: Vec<Vec<PlannedWeights>>,
    error: f64,
}

/// Of each step, one weight a stored residual, newest first.
pub(crate) type PlannedWeights = Arc<[Vec<f64>]>;

impl RunPlan {
    /// The weights of `plan`, whose tracks are those of every branch of the first segment, of the second, and so on.
    pub(super) fn new(planner: &Planner, plan: &StepPlan, branches: usize) -> Self {
        let by_step: Vec<_> = (0..plan.mask.len()).map(|step| planner.weights(&plan.mask, step)).collect();
        let track = |track: usize| by_step.iter().map(|tracks| tracks[track].clone()).collect();
        let tracks: Vec<PlannedWeights> = (0..by_step[0].len()).map(track).collect();
        let weights = tracks.chunks(branches).map(<[PlannedWeights]>::to_vec).collect();
        RunPlan { mask: plan.mask.clone(), weights, error: plan.error }
    }

    /// The steps that are computed.
    pub fn mask(&self) -> &StepMask {
        &self.mask
    }

    /// The predicted error of the final latents, a sum of squares in parts of the residuals' own.
    pub fn error(&self) -> f64 {
        self.error
    }

    pub(crate) fn weights(&self, segment: usize, branch: usize) -> &PlannedWeights {
        &self.weights[segment][branch]
    }
}
