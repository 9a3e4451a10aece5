//! Whether pictures miss what was promised of them, and by how much plans are to be tighter for that.

use cache::Planning;

/// Fewest audits that plans are judged by.
const LEAST: u64 = 8;

/// How many times its own standard error a mean has to be below the promise: less would tighten plans that keep it.
const SURE: f64 = 2.0;

/// Most that plans are tightened in all, in dB.
const MOST: f64 = 12.0;

/// Pictures of plans, as they are at one moment, against their promise.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Judged {
    planning: Planning,
    deviations: Deviations,
}

/// How far pictures are above what was promised of them, in dB: Welford's sums.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Deviations {
    count: u64,
    mean: f64,
    squares: f64,
}

impl Judged {
    /// Nothing is known yet of the pictures of these plans.
    pub(super) fn new(planning: Planning) -> Self {
        Judged { planning, deviations: Deviations::default() }
    }

    /// Whether these are the plans that are judged.
    pub(super) fn is_of(&self, planning: &Planning) -> bool {
        self.planning == *planning
    }

    /// A picture is so many dB above its promise. Returns by how much the plans are to be tightened in all, if that is more
    /// than they are.
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

    /// How far the mean is below the promise, where that is sure.
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

    /// What the plans are tightened to once these were added, and at which of them.
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
        // Of -1 and -3 in turn the mean is -2 with an error of 0.38.
        assert_eq!(tightened(0.0, &[-1.0, -3.0].repeat(4)), Some((8, 2.0)));
        // Of 4 and -5 in turn it is -0.5, with errors from 1.7 on: of 324 pictures half of that.
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
