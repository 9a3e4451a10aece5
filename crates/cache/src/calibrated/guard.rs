//! The guard: detects a run that departs from the measured ones.

use serde::{Deserialize, Serialize};

/// Measured change of the velocity between a computed step and the one before: the logarithm of
/// `mean |previous - current| / mean |previous|`, which spreads about evenly over runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct VelocityChange {
    /// The mean over runs.
    pub mean: f64,
    /// The standard deviation over runs, drawn towards the usual one if there are few runs.
    pub spread: f64,
}

/// Maximum change, in spreads above the mean. On held-out pictures of the built-in model less than one step in a
/// hundred exceeds it.
const SPREADS: f64 = 3.0;
/// A few runs may be alike by chance, so this many further runs with the usual spread are assumed. The spread is about
/// that of the built-in model.
const USUAL_RUNS: f64 = 8.0;
const USUAL_SPREAD: f64 = 0.3;

impl VelocityChange {
    /// Summarizes the changes of several runs, ignoring those that are not above 0.
    pub fn of(changes: &[f64]) -> Self {
        let logarithms: Vec<_> = changes.iter().map(|change| change.ln()).filter(|change| change.is_finite()).collect();
        let count = logarithms.len() as f64;
        let mean = logarithms.iter().sum::<f64>() / count.max(1.0);
        let squares: f64 = logarithms.iter().map(|logarithm| (logarithm - mean) * (logarithm - mean)).sum();
        let usual = USUAL_RUNS * USUAL_SPREAD * USUAL_SPREAD;
        VelocityChange { mean, spread: ((squares + usual) / (count + USUAL_RUNS)).sqrt() }
    }

    /// Whether a run with this change differs from the measured ones. NaN does.
    pub fn is_far(&self, change: f64) -> bool {
        change.is_nan() || change.ln() > self.mean + SPREADS * self.spread
    }

    pub(super) fn is_finite(&self) -> bool {
        self.mean.is_finite() && self.spread.is_finite() && self.spread >= 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_far_above_the_measured_runs_is_far() {
        let change = VelocityChange::of(&[0.1, 0.2, 0.4]);
        assert!((change.mean - 0.2_f64.ln()).abs() < 1e-12 && (change.spread - 0.391).abs() < 1e-3, "{change:?}");
        // Three spreads are a factor of 3.2.
        for (given, expected) in [(0.0, false), (0.2, false), (0.63, false), (0.66, true), (f64::NAN, true)] {
            assert_eq!(change.is_far(given), expected, "{given}");
        }
    }

    #[test]
    fn a_few_runs_that_are_alike_leave_some_room() {
        let change = VelocityChange::of(&[0.1, 0.1]);
        assert!(!change.is_far(0.22) && change.is_far(0.23));
        assert!(VelocityChange::of(&[]).is_finite() && VelocityChange::of(&[0.0]).is_finite());
    }
}
