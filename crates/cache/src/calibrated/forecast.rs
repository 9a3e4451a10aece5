//! The best linear forecast of one step from others, and how far off it is: ridge least squares.

use super::gram::Gram;

/// What is added to the diagonal, in parts of its mean: residuals of neighbouring steps are nearly the same.
const RIDGE: f64 = 1e-6;

/// A forecast of one step's residual as a weighted sum of those of others.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearForecast {
    /// One a step of the history, in its order.
    pub weights: Vec<f64>,
    /// The mean square of what it is off, in parts of the residual's own.
    pub error: f64,
}

impl LinearForecast {
    /// The weights `w = (G_HH + ridge I)^-1 G_Hi` of step `step` from the steps of `history`, which is not empty.
    pub fn new(gram: &Gram, history: &[usize], step: usize) -> Self {
        let m = history.len();
        let trace: f64 = history.iter().map(|&i| gram.get(i, i)).sum();
        let ridge = RIDGE * trace / m as f64;
        let entry = |i: usize, j: usize| gram.get(history[i], history[j]) + if i == j { ridge } else { 0.0 };
        let target: Vec<_> = history.iter().map(|&i| gram.get(i, step)).collect();
        let weights = solve(m, entry, &target);
        let own = gram.get(step, step);
        let fitted: f64 = weights.iter().zip(&target).map(|(w, t)| w * t).sum();
        let squared =
            |i: usize| (0..m).map(|j| weights[i] * weights[j] * gram.get(history[i], history[j])).sum::<f64>();
        let error = own - 2.0 * fitted + (0..m).map(squared).sum::<f64>();
        // What rounding takes below nothing is nothing.
        LinearForecast { weights, error: (error / own).max(0.0) }
    }
}

/// Solves a symmetric positive definite system by Cholesky's decomposition. Where a pivot is not positive, which a ridge
/// leaves to matrices that are none, its unknown is left out.
fn solve(n: usize, entry: impl Fn(usize, usize) -> f64, target: &[f64]) -> Vec<f64> {
    let mut lower = vec![0.0; n * n];
    let mut forward = vec![0.0; n];
    for i in 0..n {
        for j in 0..=i {
            let done: f64 = (0..j).map(|k| lower[i * n + k] * lower[j * n + k]).sum();
            let rest = entry(i, j) - done;
            let pivot = lower[j * n + j];
            lower[i * n + j] = match i == j {
                true => rest.max(0.0).sqrt(),
                false if pivot > 0.0 => rest / pivot,
                false => 0.0,
            };
        }
        let done: f64 = (0..i).map(|k| lower[i * n + k] * forward[k]).sum();
        forward[i] = over(target[i] - done, lower[i * n + i]);
    }
    let mut solution = vec![0.0; n];
    for i in (0..n).rev() {
        let done: f64 = (i + 1..n).map(|k| lower[k * n + i] * solution[k]).sum();
        solution[i] = over(forward[i] - done, lower[i * n + i]);
    }
    solution
}

fn over(value: f64, pivot: f64) -> f64 {
    if pivot > 0.0 { value / pivot } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gram(rows: &[&[f64]]) -> Gram {
        Gram::from_triangle(&rows.iter().map(|row| row.to_vec()).collect::<Vec<_>>()).unwrap()
    }

    /// Of residuals in two dimensions.
    fn of(residuals: &[[f64; 2]]) -> Gram {
        let rows: Vec<_> = (0..residuals.len())
            .map(|i| (0..=i).map(|j| residuals[i][0] * residuals[j][0] + residuals[i][1] * residuals[j][1]).collect())
            .collect();
        Gram::from_triangle(&rows).unwrap()
    }

    #[test]
    fn what_lies_in_the_span_of_the_others_is_forecast() {
        let gram = of(&[[1.0, 0.0], [1.0, 1.0], [3.0, -2.0]]);
        let forecast = LinearForecast::new(&gram, &[1, 0], 2);
        assert!((forecast.weights[0] + 2.0).abs() < 1e-4 && (forecast.weights[1] - 5.0).abs() < 1e-4, "{forecast:?}");
        assert!(forecast.error < 1e-9);
    }

    #[test]
    fn what_is_new_is_the_error() {
        let forecast = LinearForecast::new(&of(&[[2.0, 0.0], [3.0, 4.0]]), &[0], 1);
        assert!((forecast.weights[0] - 1.5).abs() < 1e-4, "{forecast:?}");
        assert!((forecast.error - 16.0 / 25.0).abs() < 1e-9);
    }

    #[test]
    fn the_same_residual_twice_and_no_matrix_at_all_give_finite_weights() {
        let twice = LinearForecast::new(&of(&[[1.0, 1.0], [1.0, 1.0], [2.0, 2.0]]), &[1, 0], 2);
        assert!((twice.weights.iter().sum::<f64>() - 2.0).abs() < 1e-4 && twice.error < 1e-9, "{twice:?}");
        let none = LinearForecast::new(&gram(&[&[1.0], &[9.0, 1.0], &[5.0, -7.0, 1.0]]), &[1, 0], 2);
        assert!(none.weights.iter().all(|weight| weight.is_finite()) && none.error.is_finite(), "{none:?}");
    }
}
