//! The first measurement of a calibration: the Gram matrix of a run's latents over its noise levels.

/// Scalar products of a run's latents at any two noise levels, `[steps + 1, steps + 1]`, symmetric; for several runs
/// their sum.
///
/// An Euler step moves the latents along its velocity, so the matrix also contains the products of velocities.
#[derive(Clone, Debug, PartialEq)]
pub struct Gram {
    levels: usize,
    values: Vec<f64>,
}

impl Gram {
    /// Builds it from the lower triangle, row by row: row `i` has the products with levels 0 to `i`.
    ///
    /// # Panics
    /// If a row is too short.
    pub fn from_triangle(rows: &[Vec<f64>]) -> Self {
        let levels = rows.len();
        let value = |i: usize, j: usize| rows[i.max(j)][i.min(j)];
        let values = (0..levels).flat_map(|i| (0..levels).map(move |j| value(i, j))).collect();
        Gram { levels, values }
    }

    /// Builds it from all products of `levels` levels, row by row.
    ///
    /// # Panics
    /// If their number is not `levels * levels`.
    pub fn from_products(levels: usize, values: Vec<f64>) -> Self {
        assert_eq!(values.len(), levels * levels, "a product for each pair of levels. This is a bug.");
        Gram { levels, values }
    }

    /// Number of noise levels.
    pub fn levels(&self) -> usize {
        self.levels
    }

    /// Normalizes by the square of the last latents, so that runs of all sizes have equal weight.
    #[must_use]
    pub fn in_parts_of_the_last(mut self) -> Self {
        let unit = self.get(self.levels - 1, self.levels - 1);
        self.values.iter_mut().for_each(|value| *value /= unit);
        self
    }

    /// Adds a run with the same levels.
    ///
    /// # Panics
    /// If the number of levels differs.
    pub fn add(&mut self, run: &Gram) {
        assert_eq!(self.levels, run.levels, "runs of as many steps are added. This is a bug.");
        self.values.iter_mut().zip(&run.values).for_each(|(sum, value)| *sum += value);
    }

    /// The product of the latents at two levels.
    pub fn get(&self, i: usize, j: usize) -> f64 {
        self.values[i * self.levels + j]
    }

    /// The product of two displacements between levels: of `x[i.1] - x[i.0]` and `x[j.1] - x[j.0]`.
    pub fn of_ways(&self, i: (usize, usize), j: (usize, usize)) -> f64 {
        self.get(i.1, j.1) - self.get(i.1, j.0) - self.get(i.0, j.1) + self.get(i.0, j.0)
    }

    /// The product of the latents at level `i` and the displacement between two levels.
    pub fn of_way(&self, i: usize, way: (usize, usize)) -> f64 {
        self.get(i, way.1) - self.get(i, way.0)
    }
}
