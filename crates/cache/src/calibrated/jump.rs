//! From one computed step to the next: which direction the latents take.

use serde::{Deserialize, Serialize};

use super::least_squares::LeastSquares;

/// Velocities that a jump is made of, at most: that of its own step and of the computed ones before it.
pub const MEMORY: usize = 3;

/// The velocity that stands for those of a computed step and of the steps that are skipped behind it: a weighted sum.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct Jump {
    /// Of the velocities of the last computed steps, its own first.
    pub velocities: Vec<f64>,
    /// Of the latents that it starts from.
    pub latents: f64,
}

impl Jump {
    /// Euler's: along the velocity of the step itself.
    pub fn euler() -> Self {
        Jump { velocities: vec![1.0], latents: 0.0 }
    }

    /// How many velocities a jump behind so many computed steps has.
    pub fn velocities_behind(computed: usize) -> usize {
        MEMORY.min(computed + 1)
    }
}

/// The sums over runs that a jump follows from: those of its velocities, its latents, and the way that it is to go.
#[derive(Clone, Debug)]
pub struct JumpFit {
    terms: usize,
    products: Vec<f64>,
    targets: Vec<f64>,
    own: f64,
}

impl JumpFit {
    /// Of no run yet; a jump has so many velocities.
    pub fn new(velocities: usize) -> Self {
        let terms = velocities + 1;
        JumpFit { terms, products: vec![0.0; terms * terms], targets: vec![0.0; terms], own: 0.0 }
    }

    /// Adds a run by the scalar products of its vectors: `rows[i][j]` of the `i`th and the `j`th of the velocities, newest
    /// first, the latents, and last the way to go in parts of the change of the noise level.
    ///
    /// # Panics
    /// If there are more or fewer.
    pub fn add(&mut self, rows: &[Vec<f64>]) {
        let n = self.terms;
        assert!(rows.len() == n + 1 && rows.iter().all(|row| row.len() == n + 1), "a row a vector. This is a bug.");
        for (i, row) in rows[..n].iter().enumerate() {
            (0..n).for_each(|j| self.products[i * n + j] += row[j]);
            self.targets[i] += row[n];
        }
        self.own += rows[n][n];
    }

    /// The jump that misses the ways by the least square.
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
