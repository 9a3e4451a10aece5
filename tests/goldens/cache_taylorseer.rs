//! TaylorSeer on scalars in f64: every derivative and forecast of cache-dit's calibrator.

use std::collections::VecDeque;

use cache::TaylorSeer;
use serde::Deserialize;

use crate::compare::goldens;

/// Tolerance, relative to the largest value so far.
const TOLERANCE: f64 = 1e-12;

#[derive(Deserialize)]
struct Ladders {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    order: usize,
    sequence: String,
    function: String,
    rows: Vec<Row>,
}

/// A computed step with its derivatives, or a reused step with its forecast.
#[derive(Deserialize)]
#[serde(untagged)]
enum Row {
    Computed { value: f64, ladder: Vec<Option<f64>> },
    Reused { predicted: f64 },
}

/// Stored values, newest first, and the largest value so far.
#[derive(Default)]
struct History {
    values: VecDeque<f64>,
    largest: f64,
}

impl History {
    fn weighted_sum(&self, weights: &[f64]) -> f64 {
        assert!(weights.len() <= self.values.len(), "{} weights for {} values", weights.len(), self.values.len());
        weights.iter().zip(&self.values).map(|(weight, value)| weight * value).sum()
    }

    fn store(&mut self, value: f64, keep: usize) {
        self.values.push_front(value);
        self.values.truncate(keep);
        self.largest = self.largest.max(value.abs());
    }
}

/// Plays a case, and returns the largest error relative to the largest value.
fn play(case: &Case) -> f64 {
    let mut taylor = TaylorSeer::new(case.order);
    let mut history = History::default();
    let mut worst = 0.0_f64;
    for (step, row) in case.rows.iter().enumerate() {
        taylor.tick(step as f64);
        match row {
            Row::Computed { value, ladder } => {
                taylor.store();
                history.store(*value, taylor.keep());
                let theirs: Vec<f64> = ladder.iter().copied().flatten().collect();
                let ours = taylor.derivatives().iter().map(|weights| history.weighted_sum(weights));
                let ours: Vec<f64> = ours.collect();
                assert_eq!(ours.len(), theirs.len(), "derivatives: {ours:?} {theirs:?}");
                let errors = ours.iter().zip(&theirs).map(|(ours, theirs)| (ours - theirs).abs() / history.largest);
                worst = errors.fold(worst, f64::max);
            }
            Row::Reused { predicted } => {
                let ours = history.weighted_sum(&taylor.weights());
                worst = worst.max((ours - predicted).abs() / history.largest.max(predicted.abs()));
            }
        }
    }
    worst
}

#[test]
fn every_derivative_and_forecast_is_the_librarys() {
    let ladders = std::fs::read(goldens().join("cache/taylorseer_unit.json")).unwrap();
    let ladders: Ladders = serde_json::from_slice(&ladders).unwrap();
    assert!(!ladders.cases.is_empty());
    let mut worst = 0.0_f64;
    for case in &ladders.cases {
        let error = play(case);
        let Case { order, sequence, function, .. } = case;
        assert!(error <= TOLERANCE, "order {order}, {sequence}, {function}: error {error:.1e} is over {TOLERANCE:.0e}");
        worst = worst.max(error);
    }
    println!("{} cases: error {worst:.1e} of the largest value, at most {TOLERANCE:.0e}", ladders.cases.len());
}
