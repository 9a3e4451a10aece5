//! A jump from one computed step to the next: the direction of the latents.

use serde::{Deserialize, Serialize};

use super::least_squares::LeastSquares;

/// Maximum number of velocities in a jump: that of its own step and of the computed steps before it.
pub const MEMORY: usize = 3;

/// One velocity, a weighted sum, that replaces those of a computed step and of the skipped steps after it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct Jump {
    /// Weights of the velocities of the last computed steps, its own first.
    pub velocities: Vec<f64>,
    /// Weight of the latents at its start.
    pub latents: f64,
}

impl Jump {
    /// Euler's step: along the velocity of the step itself.
    pub fn euler() -> Self {
        Jump { velocities: vec![1.0], latents: 0.0 }
    }

    /// Number of velocities of a jump that has `computed` computed steps before its own.
    pub fn velocities_behind(computed: usize) -> usize {
        MEMORY.min(computed + 1)
    }
}

/// Sums over runs from which a jump is fitted: the scalar products of velocities, latents and the displacement to
/// reproduce.
#[derive(Clone, Debug)]
pub struct JumpFit {
    terms: usize,
    products: Vec<f64>,
    targets: Vec<f64>,
    own: f64,
}

impl JumpFit {
    /// Starts without runs, for a jump of this many velocities.
    pub fn new(velocities: usize) -> Self {
        let terms = velocities + 1;
        JumpFit { terms, products: vec![0.0; terms * terms], targets: vec![0.0; terms], own: 0.0 }
    }

    /// Adds a run by the scalar products `rows[i][j]` of its vectors `i` and `j`. The vectors are the velocities,
    /// newest first, the latents, and last the displacement divided by the change of the noise level.
    ///
    /// # Panics
    /// If the number of rows or columns differs.
    pub fn add(&mut self, rows: &[Vec<f64>]) {
        let n = self.terms;
        assert!(rows.len() == n + 1 && rows.iter().all(|row| row.len() == n + 1), "a row a vector. This is a bug.");
        for (i, row) in rows[..n].iter().enumerate() {
            (0..n).for_each(|j| self.products[i * n + j] += row[j]);
            self.targets[i] += row[n];
        }
        self.own += rows[n][n];
    }

    /// Returns the jump with the least squared error over the runs.
    pub fn jump(&self) -> Jump {
        let found = LeastSquares::new(self.terms, |i, j| self.products[i * self.terms + j], &self.targets, self.own);
        let mut velocities = found.weights;
        let latents = velocities.pop().expect("latents are the last term. This is a bug.");
        Jump { velocities, latents }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_that_runs_share_is_found() {
        let (velocities, latents) = ([0.75, -0.25], 0.125);
        let mut fit = JumpFit::new(2);
        for vectors in
            [[[1.0, 2.0, 0.5], [0.0, 1.0, 1.0], [2.0, -1.0, 0.0]], [[0.3, 0.0, 1.0], [1.0, 1.0, 0.0], [0.0, 1.0, 4.0]]]
        {
            let [a, b, x] = vectors;
            let way: [f64; 3] = std::array::from_fn(|i| velocities[0] * a[i] + velocities[1] * b[i] + latents * x[i]);
            let all = [a, b, x, way];
            let dot = |a: &[f64; 3], b: &[f64; 3]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            fit.add(&all.map(|a| all.iter().map(|b| dot(&a, b)).collect()));
        }
        let jump = fit.jump();
        let found = [jump.velocities[0], jump.velocities[1], jump.latents];
        for (found, expected) in found.into_iter().zip([0.75, -0.25, 0.125]) {
            assert!((found - expected).abs() < 1e-3, "{jump:?}");
        }
    }
}
