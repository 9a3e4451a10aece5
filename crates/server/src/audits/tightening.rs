//! Decides whether pictures miss their promise, and how far to tighten the plans.

use cache::Planning;

/// Fewest audits needed to judge plans.
const LEAST: u64 = 8;

/// Standard errors that a mean must be below the promise. A smaller factor would tighten plans that keep their promise.
const SURE: f64 = 2.0;

/// Most total tightening, in dB.
const MOST: f64 = 12.0;

/// Results of one version of the plans against their promise.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Judged {
    planning: Planning,
    deviations: Deviations,
}

/// PSNR of pictures less their promise, in dB, as Welford's sums.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Deviations {
    count: u64,
    mean: f64,
    squares: f64,
}

impl Judged {
    /// Starts without results for these plans.
    pub(super) fn new(planning: Planning) -> Self {
        Judged { planning, deviations: Deviations::default() }
    }

    /// Whether these plans are the judged ones.
    pub(super) fn is_of(&self, planning: &Planning) -> bool {
        self.planning == *planning
    }

    /// Adds a picture; `deviation` is its PSNR less the promise, in dB. Returns the total tightening, if that is more
    /// than the present one.
    pub(super) fn add(&mut self, deviation: f64) -> Option<f64> {
        self.deviations.add(deviation);
        let tightened = (self.planning.shift + self.deviations.missed_by()?).min(MOST);
        (tightened > self.planning.shift).then_some(tightened)
    }
}

impl Deviations {
    fn add(&mut self, deviation: f64) {
        self.count += 1;
        let from_old = deviation - self.mean;
        self.mean += from_old / self.count as f64;
        self.squares += from_old * (deviation - self.mean);
    }

    /// How far the mean is below the promise, if the difference is significant.
    fn missed_by(&self) -> Option<f64> {
        if self.count < LEAST {
            return None;
        }
        let count = self.count as f64;
        let error = (self.squares / (count - 1.0) / count).sqrt();
        (-self.mean > SURE * error).then_some(-self.mean)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cache::Calibration;

    use super::*;

    fn planning(shift: f64) -> Planning {
        let (class, model) = ("Some".into(), "digest".into());
        let calibration =
            Calibration { class, model, num_inference_steps: 20, guidance: None, pictures: 8, plans: Vec::new() };
        Planning { calibration: Arc::new(calibration), shift }
    }

    /// The first tightening after these deviations, and how many of them it took.
    fn tightened(shift: f64, deviations: &[f64]) -> Option<(usize, f64)> {
        let mut judged = Judged::new(planning(shift));
        let mut told = deviations.iter().map(|&deviation| judged.add(deviation)).enumerate();
        told.find_map(|(i, tightened)| Some((i + 1, (tightened? * 1e3).round() / 1e3)))
    }

    #[test]
    fn plans_are_tightened_by_what_their_pictures_miss_for_sure() {
        assert_eq!(tightened(0.0, &[-1.5; 7]), None, "too few");
        assert_eq!(tightened(0.0, &[-1.5; 8]), Some((8, 1.5)));
        assert_eq!(tightened(0.7, &[-1.5; 8]), Some((8, 2.2)), "on top of what was before");
        // Alternating -1 and -3 have a mean of -2 with a standard error of 0.38.
        assert_eq!(tightened(0.0, &[-1.0, -3.0].repeat(4)), Some((8, 2.0)));
        // Alternating 4 and -5 have a mean of -0.5. Its standard error falls from 1.7, and is half the mean at 324
        // pictures.
        assert_eq!(tightened(0.0, &[4.0, -5.0].repeat(150)), None);
        assert_eq!(tightened(0.0, &[4.0, -5.0].repeat(170)).map(|(_, by)| by), Some(0.5));
    }

    #[test]
    fn plans_that_keep_their_promise_stay_and_none_is_loosened() {
        assert_eq!(tightened(0.0, &[0.0; 50]), None);
        assert_eq!(tightened(3.0, &[2.0; 50]), None);
    }

    #[test]
    fn plans_are_tightened_so_far_and_no_further() {
        assert_eq!(tightened(0.0, &[-40.0; 8]), Some((8, MOST)));
        assert_eq!(tightened(MOST, &[-40.0; 50]), None);
    }

    #[test]
    fn other_plans_are_judged_anew() {
        let judged = Judged::new(planning(0.0));
        assert!(judged.is_of(&planning(0.0)) && !judged.is_of(&planning(1.0)));
    }
}
