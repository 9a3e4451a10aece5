//! TaylorSeer: a Taylor polynomial through the residuals of the last computed steps, in the form of weights.
//!
//! The derivatives are backward differences divided by the gap to the previous computed step, without
//! the correction that unequal gaps need beyond the first order, exactly as in cache-dit 1.5.3:
//! <https://github.com/vipshop/cache-dit/blob/v1.5.3/src/cache_dit/caching/cache_contexts/calibrators/taylorseer.py>

/// The derivatives of one stream of one branch, each in the form of weights over the stored residuals.
///
/// Call [`tick`](Self::tick) when a step begins, then [`store`](Self::store) if it is computed. The polynomial's
/// variable is the position passed for each step: its index as in cache-dit, or its noise level. The first derivative
/// appears once the fourth step (index 3) is computed, each higher one a computed step later. Computed steps before
/// that give plain reuse.
#[derive(Clone, Debug, PartialEq)]
pub struct TaylorSeer {
    order: usize,
    /// Steps since the first stored residual, minus one: cache-dit creates its state at the first update, after that
    /// step's tick, with a clock of -1.
    clock: i64,
    /// Position of the current step.
    position: f64,
    /// Position of the last stored residual.
    last_stored: f64,
    /// `derivatives[i]` has `i + 1` weights, newest residual first. Empty until something is stored.
    derivatives: Vec<Vec<f64>>,
}

/// The clock before the first step, and after a restart.
const NOT_STARTED: i64 = -1;

impl TaylorSeer {
    /// Creates an empty state. An `order` of 0 is plain reuse.
    pub fn new(order: usize) -> Self {
        TaylorSeer { order, clock: NOT_STARTED, position: 0.0, last_stored: 0.0, derivatives: Vec::new() }
    }

    /// Begins the step at this position, computed or not.
    pub fn tick(&mut self, position: f64) {
        self.position = position;
        if !self.derivatives.is_empty() {
            self.clock += 1;
        }
    }

    /// Records that the residual of this step is computed and becomes the newest.
    pub fn store(&mut self) {
        let gap = self.position - self.last_stored;
        let mut derivatives = vec![vec![1.0]];
        // Heun's method evaluates a noise level twice, and a zero gap gives no derivative.
        if self.clock > 1 && gap != 0.0 {
            for (i, before) in self.derivatives.iter().take(self.order).enumerate() {
                derivatives.push(difference_quotient(&derivatives[i], before, gap));
            }
        }
        self.derivatives = derivatives;
        self.last_stored = self.position;
    }

    /// Restarts the series: the shape changes with this step, whose residual becomes the first.
    pub fn restart(&mut self) {
        *self = TaylorSeer { position: self.position, ..TaylorSeer::new(self.order) };
    }

    /// The weights of the stored residuals, newest first, in the forecast for this step.
    pub fn weights(&self) -> Vec<f64> {
        let ahead = self.position - self.last_stored;
        let mut weights = vec![0.0; self.derivatives.len()];
        let mut coefficient = 1.0; // ahead^i / i!
        for (i, derivative) in self.derivatives.iter().enumerate() {
            if i > 0 {
                coefficient *= ahead / i as f64;
            }
            for (weight, d) in weights.iter_mut().zip(derivative) {
                *weight += coefficient * d;
            }
        }
        weights
    }

    /// Number of the newest residuals that this and later forecasts need.
    pub fn keep(&self) -> usize {
        self.derivatives.len()
    }

    /// The value and the derivatives at the last computed step, each in the form of weights of the stored residuals,
    /// newest first.
    pub fn derivatives(&self) -> &[Vec<f64>] {
        &self.derivatives
    }
}

/// `(now - before) / gap`, where `before` is over a history without the newest residual.
fn difference_quotient(now: &[f64], before: &[f64], gap: f64) -> Vec<f64> {
    let mut quotient = now.to_vec();
    quotient.resize(before.len() + 1, 0.0);
    for (weight, before) in quotient[1..].iter_mut().zip(before) {
        *weight -= before;
    }
    quotient.iter_mut().for_each(|weight| *weight /= gap);
    quotient
}

#[cfg(test)]
mod tests {
    use super::*;

    // The numbers are compared with cache-dit's own in tests/goldens/cache_taylorseer.rs.

    /// Simulates computed (`1`) and reused (`C`) steps; returns the weights at the last one.
    fn weights(order: usize, steps: &str) -> Vec<f64> {
        weights_at(order, steps, |step| step as f64)
    }

    fn weights_at(order: usize, steps: &str, position: impl Fn(usize) -> f64) -> Vec<f64> {
        let mut taylor = TaylorSeer::new(order);
        for (i, step) in steps.chars().enumerate() {
            taylor.tick(position(i));
            if step == '1' {
                taylor.store();
            }
        }
        taylor.weights()
    }

    #[test]
    fn early_steps_are_plain_reuse() {
        assert_eq!(weights(2, "1C"), [1.0]);
        assert_eq!(weights(2, "11C"), [1.0]);
        assert_eq!(weights(2, "111CC"), [1.0]);
    }

    #[test]
    fn the_first_order_extends_the_line_through_the_last_two() {
        assert_eq!(weights(1, "1111C"), [2.0, -1.0]);
        assert_eq!(weights(1, "1111CCC"), [4.0, -3.0]);
        assert_eq!(weights(1, "1111CC1C"), [1.0 + 1.0 / 3.0, -1.0 / 3.0], "a gap of three steps");
    }

    #[test]
    fn a_derivative_appears_with_each_computed_step() {
        assert_eq!(weights(3, "1111C").len(), 2);
        assert_eq!(weights(3, "11111C").len(), 3);
        assert_eq!(weights(3, "111111111C").len(), 4, "no more than the order and one");
        assert_eq!(weights(0, "111111111C"), [1.0]);
    }

    /// The stored values are linear in the noise level, whose steps are uneven.
    #[test]
    fn by_noise_level_a_line_in_it_is_forecast_exactly() {
        let levels = [1.0, 0.97, 0.93, 0.88, 0.8, 0.68, 0.45, 0.2];
        let signal = |step: usize| 3.0 - 2.0 * levels[step];
        for (steps, stored) in [("1111C", [3, 2]), ("1111CCC", [3, 2]), ("1111CC1C", [6, 3]), ("11111C1C", [6, 4])] {
            let forecast = |weights: &[f64]| weights.iter().zip(stored).map(|(w, step)| w * signal(step)).sum::<f64>();
            let expected = signal(steps.len() - 1);
            let missed = (forecast(&weights_at(1, steps, |step| levels[step])) - expected).abs();
            assert!(missed < 1e-12, "{steps}: {missed}");
            let missed_by_index = (forecast(&weights(1, steps)) - expected).abs();
            assert!(missed_by_index > 0.05, "{steps}: {missed_by_index}");
        }
    }

    #[test]
    fn a_level_that_is_evaluated_twice_has_no_derivative() {
        let levels = [1.0, 0.9, 0.8, 0.7, 0.7, 0.6];
        assert_eq!(weights_at(2, "11111C", |step| levels[step]), [1.0]);
    }

    #[test]
    fn weights_add_up_to_one() {
        for steps in ["11111C", "1111CC11CCC1CC", "1C1C1C1C1CC"] {
            for order in 0..=4 {
                let sum: f64 = weights(order, steps).iter().sum();
                assert!((sum - 1.0).abs() < 1e-12, "order {order}, {steps}: a constant stays itself, {sum}");
            }
        }
    }
}
