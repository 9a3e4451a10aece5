//! A fitted plan, a few steps that replace a full run, in its file format.

use serde::{Deserialize, Serialize};

use super::guard::VelocityChange;
use super::jump::{Jump, MEMORY};

/// The computed steps of a run, and the jump from each to the next.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct FittedPlan {
    /// The steps that are computed.
    pub computed: Vec<usize>,
    /// One jump per computed step.
    pub jumps: Vec<Jump>,
    /// Change of the velocity from each computed step to the next; empty if it was not measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<VelocityChange>,
    /// PSNR of the pictures against those of all steps, in dB.
    pub psnr: Psnr,
}

/// PSNR over several pictures, in dB.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct Psnr {
    /// The mean.
    pub mean: f64,
    /// The tenth percentile: nine pictures of ten reach at least this.
    pub tenth: f64,
    /// The minimum.
    pub least: f64,
}

impl Psnr {
    /// Summarizes the values of at least one picture.
    pub fn of(mut pictures: Vec<f64>) -> Self {
        pictures.sort_by(f64::total_cmp);
        let count = pictures.len();
        Psnr { mean: pictures.iter().sum::<f64>() / count as f64, tenth: pictures[count / 10], least: pictures[0] }
    }
}

/// The PSNR assigned to equal pictures, in dB.
pub const EQUAL: f64 = 100.0;
/// Maximum plausible weight of a jump: fitted weights are a few units at most.
const MOST: f64 = 100.0;
/// Maximum plausible PSNR in dB: pictures that differ in one byte are below it.
const MOST_PSNR: f64 = 200.0;

impl FittedPlan {
    /// The plan that skips none of `steps` steps.
    pub fn whole(steps: usize) -> Self {
        FittedPlan {
            computed: (0..steps).collect(),
            jumps: vec![Jump::euler(); steps],
            // There is no skipped step that a guard could have computed.
            changes: Vec::new(),
            psnr: Psnr { mean: EQUAL, tenth: EQUAL, least: EQUAL },
        }
    }

    /// Checks what the types do not express, for a run of `steps` steps.
    ///
    /// # Errors
    /// The first problem, as words that continue "the calibration".
    pub(super) fn check(&self, steps: usize) -> Result<(), String> {
        let FittedPlan { computed, jumps, changes, psnr } = self;
        let rises = computed.windows(2).all(|pair| pair[0] < pair[1]);
        if computed.first() != Some(&0) || !rises || computed.last().is_some_and(|&last| last >= steps) {
            return Err(format!(
                "must have `computed` steps that rise from 0 and are below {steps}. Given: {computed:?}"
            ));
        }
        if jumps.len() != computed.len() {
            return Err(format!(
                "must have a jump for each of {} computed steps. Given: {}",
                computed.len(),
                jumps.len()
            ));
        }
        let fits = |(i, jump): (usize, &Jump)| {
            let numbers = jump.velocities.iter().chain([&jump.latents]);
            (1..=Jump::velocities_behind(i)).contains(&jump.velocities.len())
                && numbers.copied().all(|number| number.abs() <= MOST)
        };
        if !jumps.iter().enumerate().all(fits) {
            return Err(format!(
                "must have `jumps` of numbers up to {MOST}, of 1 to {MEMORY} velocities and of no more than there are"
            ));
        }
        if !(changes.is_empty() || changes.len() + 1 == computed.len())
            || !changes.iter().all(VelocityChange::is_finite)
        {
            return Err(format!(
                "must have finite `changes`, none or one for each of {} computed steps but the first. Given: {}",
                computed.len(),
                changes.len()
            ));
        }
        let measured = [psnr.mean, psnr.tenth, psnr.least];
        match measured.into_iter().find(|psnr| psnr.is_nan() || psnr.abs() > MOST_PSNR) {
            Some(given) => Err(format!("must have a `psnr` of at most {MOST_PSNR} dB. Given: {given}")),
            None => Ok(()),
        }
    }
}
