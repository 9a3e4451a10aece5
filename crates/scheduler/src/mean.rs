//! A running mean that follows changes.

/// Approximate number of observations in the mean.
const WINDOW: u32 = 50;

/// The mean of the first [`WINDOW`] observations; after that, an exponential moving average with the same window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Mean {
    value: f64,
    n_observed: u32,
}

impl Mean {
    /// The mean, or `prior` before the first observation.
    pub(crate) fn or(&self, prior: f64) -> f64 {
        if self.n_observed == 0 { prior } else { self.value }
    }

    /// Number of observations, up to [`WINDOW`].
    pub(crate) fn n_observed(&self) -> u32 {
        self.n_observed
    }

    /// Records an observation; values that are not finite are ignored.
    pub(crate) fn observe(&mut self, value: f64) {
        if value.is_finite() {
            self.n_observed = (self.n_observed + 1).min(WINDOW);
            self.value += (value - self.value) / f64::from(self.n_observed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_begins_exact_and_then_follows() {
        let mut mean = Mean::default();
        assert_eq!(mean.or(3.0), 3.0);
        [1.0, 2.0, 6.0, f64::NAN, f64::INFINITY].into_iter().for_each(|value| mean.observe(value));
        assert_eq!(mean.or(0.0), 3.0);
        (0..400).for_each(|_| mean.observe(10.0));
        assert!((9.9..=10.0).contains(&mean.or(0.0)), "{mean:?}");
    }
}
