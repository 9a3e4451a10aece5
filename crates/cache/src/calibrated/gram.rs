//! What calibration measures: how alike the residuals of any two steps are.

use serde::{Deserialize, Serialize};

/// Most steps of a matrix: it has the square of them.
const MAX_STEPS: usize = 1000;

/// The mean scalar product of what the middle blocks add at any two steps of a run: `[steps, steps]`, symmetric.
///
/// It is all that the weights of a linear forecast and its error depend on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Vec<f64>>", into = "Vec<Vec<f64>>")]
pub struct Gram {
    steps: usize,
    values: Vec<f64>,
}

/// Why numbers are no [`Gram`] matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GramError {
    /// Too few or too many rows.
    #[error("a matrix must have 2 to {MAX_STEPS} rows. Given: {0}")]
    Rows(usize),
    /// A triangle has one number more a row.
    #[error("row {row} of a matrix must have {row} numbers, counted from 1. Given: {given}")]
    Columns {
        /// The row, from 1.
        row: usize,
        /// Numbers that it has.
        given: usize,
    },
    /// Infinite, no number, or a step whose residual is nothing.
    #[error("row {row} of a matrix must have finite numbers, and a last one above 0")]
    Value {
        /// The row, from 1.
        row: usize,
    },
}

impl Gram {
    /// From the lower triangle, row by row: row `i` has the products with steps 0 to `i`.
    ///
    /// # Errors
    /// The numbers are no such matrix.
    pub fn from_triangle(rows: &[Vec<f64>]) -> Result<Self, GramError> {
        let steps = rows.len();
        if !(2..=MAX_STEPS).contains(&steps) {
            return Err(GramError::Rows(steps));
        }
        let mut values = vec![0.0; steps * steps];
        for (i, row) in rows.iter().enumerate() {
            if row.len() != i + 1 {
                return Err(GramError::Columns { row: i + 1, given: row.len() });
            }
            if row.iter().any(|value| !value.is_finite()) || row[i] <= 0.0 {
                return Err(GramError::Value { row: i + 1 });
            }
            for (j, &value) in row.iter().enumerate() {
                values[i * steps + j] = value;
                values[j * steps + i] = value;
            }
        }
        Ok(Gram { steps, values })
    }

    /// Steps of the run.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// The product of the residuals of two steps.
    pub fn get(&self, i: usize, j: usize) -> f64 {
        self.values[i * self.steps + j]
    }

    /// The matrix of a run over other noise levels: each residual is taken as the cubic through those of the nearest four
    /// levels of this one. `from` has this matrix's levels, which fall, and `to` the others.
    pub fn resampled(&self, from: &[f64], to: &[f64]) -> Gram {
        let weights: Vec<_> = to.iter().map(|&at| Interpolation::new(from, at)).collect();
        let mut values = Vec::with_capacity(to.len() * to.len());
        for row in &weights {
            values.extend(weights.iter().map(|column| {
                let products = row.terms().flat_map(|(i, a)| column.terms().map(move |(j, b)| a * b * self.get(i, j)));
                products.sum::<f64>()
            }));
        }
        Gram { steps: to.len(), values }
    }
}

/// A value at a noise level as a weighted sum of those at neighbouring levels (Lagrange).
struct Interpolation {
    first: usize,
    weights: Vec<f64>,
}

/// Levels that a cubic goes through.
const POINTS: usize = 4;

impl Interpolation {
    fn new(levels: &[f64], at: f64) -> Self {
        let count = POINTS.min(levels.len());
        let above = levels.partition_point(|&level| level > at);
        let first = above.saturating_sub(count / 2).min(levels.len() - count);
        // Beyond the ends nothing is known: the end's own stands.
        let at = at.clamp(levels[levels.len() - 1], levels[0]);
        let points = &levels[first..first + count];
        let weight = |i: usize| {
            let others = points.iter().enumerate().filter(|(j, _)| *j != i);
            others.map(|(_, other)| (at - other) / (points[i] - other)).product()
        };
        Interpolation { first, weights: (0..count).map(weight).collect() }
    }

    fn terms(&self) -> impl Iterator<Item = (usize, f64)> {
        self.weights.iter().enumerate().map(|(i, &weight)| (self.first + i, weight))
    }
}

impl TryFrom<Vec<Vec<f64>>> for Gram {
    type Error = GramError;

    fn try_from(rows: Vec<Vec<f64>>) -> Result<Self, GramError> {
        Gram::from_triangle(&rows)
    }
}

impl From<Gram> for Vec<Vec<f64>> {
    fn from(gram: Gram) -> Self {
        (0..gram.steps).map(|i| (0..=i).map(|j| gram.get(i, j)).collect()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of residuals that are a cubic of the level in each of three dimensions.
    fn cubic(levels: &[f64]) -> Gram {
        let residual = |s: f64| [1.0 + s, s * s - 2.0, 3.0 * s * s * s + 0.5 * s];
        let product = |a: f64, b: f64| residual(a).iter().zip(residual(b)).map(|(x, y)| x * y).sum::<f64>();
        let rows: Vec<_> =
            (0..levels.len()).map(|i| (0..=i).map(|j| product(levels[i], levels[j])).collect()).collect();
        Gram::from_triangle(&rows).unwrap()
    }

    #[test]
    fn other_levels_are_interpolated_by_cubics() {
        let from: Vec<_> = (0..10).map(|i| 1.0 - 0.1 * f64::from(i)).collect();
        let to = [1.0, 0.93, 0.51, 0.5, 0.11];
        let (resampled, exact) = (cubic(&from).resampled(&from, &to), cubic(&to));
        for i in 0..to.len() {
            for j in 0..to.len() {
                assert!((resampled.get(i, j) - exact.get(i, j)).abs() < 1e-9, "{i} {j}");
            }
        }
        assert_eq!(cubic(&from).resampled(&from, &from), cubic(&from));
        let few = cubic(&from[..2]).resampled(&from[..2], &[2.0, 0.95, 0.0]);
        assert_eq!((few.get(0, 0), few.get(2, 2)), (cubic(&from).get(0, 0), cubic(&from).get(1, 1)), "the ends stand");
    }

    #[test]
    fn what_is_no_matrix_is_refused() {
        let read = |json: &str| serde_json::from_str::<Gram>(json).map_err(|err| err.to_string());
        assert_eq!(read("[[1.0],[0.5,2.0]]").unwrap().get(0, 1), 0.5);
        for (json, told) in [
            ("[]", "2 to 1000 rows. Given: 0"),
            ("[[1.0]]", "2 to 1000 rows. Given: 1"),
            ("[[1.0],[1.0]]", "row 2 of a matrix must have 2 numbers, counted from 1. Given: 1"),
            ("[[1.0],[1.0,0.0]]", "row 2 of a matrix must have finite numbers"),
            ("[[1e999],[1.0,1.0]]", "out of range"),
            ("[[1.0],[null,1.0]]", "invalid type: null"),
        ] {
            let err = read(json).unwrap_err();
            assert!(err.contains(told), "{json}: {err}");
        }
        let gram = cubic(&[1.0, 0.6, 0.3]);
        assert_eq!(serde_json::from_str::<Gram>(&serde_json::to_string(&gram).unwrap()).unwrap(), gram);
    }
}
