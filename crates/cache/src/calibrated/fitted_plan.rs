//! Some steps of a run that stand for all of them, as it is written to a file.

use serde::{Deserialize, Serialize};

use super::guard::Change;
use super::jump::{Jump, MEMORY};

/// Some steps of a run, and how it goes on from each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct FittedPlan {
    /// The steps that are computed.
    pub computed: Vec<usize>,
    /// One a computed step.
    pub jumps: Vec<Jump>,
    /// How much the velocity changes from each computed step to the next; none where nobody has looked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
    /// How like the pictures are to those of all steps, in dB of the peak signal-to-noise ratio.
    pub psnr: Psnr,
}

/// Of several pictures, in dB.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct Psnr {
    /// In the mean.
    pub mean: f64,
    /// Of nine pictures of ten, at least.
    pub tenth: f64,
    /// Of the worst.
    pub least: f64,
}

impl Psnr {
    /// Of these, one at least.
    pub fn of(mut pictures: Vec<f64>) -> Self {
        pictures.sort_by(f64::total_cmp);
        let count = pictures.len();
        Psnr { mean: pictures.iter().sum::<f64>() / count as f64, tenth: pictures[count / 10], least: pictures[0] }
    }
}

/// What equal pictures are said to have, in dB.
pub const EQUAL: f64 = 100.0;
/// The largest weight of a jump that is believed: fitted ones are a few units at most.
const MOST: f64 = 100.0;
/// The largest likeness that is believed, in dB: pictures of bytes that differ in one are below it.
const MOST_PSNR: f64 = 200.0;

impl FittedPlan {
    /// That skips none of so many steps.
    pub fn whole(steps: usize) -> Self {
        FittedPlan {
            computed: (0..steps).collect(),
            jumps: vec![Jump::euler(); steps],
            // Nothing is skipped that a guard could have computed.
            changes: Vec::new(),
            psnr: Psnr { mean: EQUAL, tenth: EQUAL, least: EQUAL },
        }
    }

    /// Checks what its types do not say, of a run of so many steps.
    ///
    /// # Errors
    /// The first thing that is wrong, in words that go on from "the calibration".
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
        if !(changes.is_empty() || changes.len() + 1 == computed.len()) || !changes.iter().all(Change::is_finite) {
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
