//! Ridge least squares: the best weighted sum of known vectors for a target, and its error.
//!
//! It takes scalar products only.

/// Ridge added to the diagonal, relative to its mean: velocities of neighbouring steps are nearly parallel.
const RIDGE: f64 = 1e-6;

/// The solution of a least-squares problem.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct LeastSquares {
    /// One weight per vector, in their order.
    pub(super) weights: Vec<f64>,
    /// The squared error of the sum.
    pub(super) error: f64,
}

impl LeastSquares {
    /// Computes the weights `w = (G + ridge I)^-1 t` of `n` vectors. Their symmetric products with each other are
    /// `product`, those with the target are `target`, and the square of the target is `own`.
    pub(super) fn new(n: usize, product: impl Fn(usize, usize) -> f64, target: &[f64], own: f64) -> Self {
        let trace: f64 = (0..n).map(|i| product(i, i)).sum();
        let ridge = RIDGE * trace / n as f64;
        let weights = solve_symmetric(n, |i, j| product(i, j) + if i == j { ridge } else { 0.0 }, target);
        let fitted: f64 = weights.iter().zip(target).map(|(w, t)| w * t).sum();
        let squared = |i: usize| (0..n).map(|j| weights[i] * weights[j] * product(i, j)).sum::<f64>();
        let error = own - 2.0 * fitted + (0..n).map(squared).sum::<f64>();
        // Rounding may make the error negative.
        LeastSquares { weights, error: error.max(0.0) }
    }
}

/// Solves a symmetric positive definite system by Cholesky decomposition. The unknown of a non-positive pivot is set to
/// 0; despite the ridge, a matrix that is not positive definite has such pivots.
pub fn solve_symmetric(n: usize, entry: impl Fn(usize, usize) -> f64, target: &[f64]) -> Vec<f64> {
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

    /// Fits the last vector by the others.
    fn fit(vectors: &[[f64; 2]]) -> LeastSquares {
        let product = |i: usize, j: usize| vectors[i][0] * vectors[j][0] + vectors[i][1] * vectors[j][1];
        let last = vectors.len() - 1;
        let target: Vec<_> = (0..last).map(|i| product(i, last)).collect();
        LeastSquares::new(last, product, &target, product(last, last))
    }

    #[test]
    fn what_lies_in_the_span_of_the_others_is_found() {
        let found = fit(&[[1.0, 0.0], [1.0, 1.0], [3.0, -2.0]]);
        assert!((found.weights[0] - 5.0).abs() < 1e-4 && (found.weights[1] + 2.0).abs() < 1e-4, "{found:?}");
        assert!(found.error < 1e-9);
    }

    #[test]
    fn what_is_new_is_the_error() {
        let found = fit(&[[2.0, 0.0], [3.0, 4.0]]);
        assert!((found.weights[0] - 1.5).abs() < 1e-4, "{found:?}");
        assert!((found.error - 16.0).abs() < 1e-9);
    }

    #[test]
    fn the_same_vector_twice_and_no_matrix_at_all_give_finite_weights() {
        let twice = fit(&[[1.0, 1.0], [1.0, 1.0], [2.0, 2.0]]);
        assert!((twice.weights.iter().sum::<f64>() - 2.0).abs() < 1e-4 && twice.error < 1e-9, "{twice:?}");
        let none = LeastSquares::new(2, |i, j| if i == j { 1.0 } else { 9.0 }, &[5.0, -7.0], 1.0);
        assert!(none.weights.iter().all(|weight| weight.is_finite()) && none.error.is_finite(), "{none:?}");
    }
}
