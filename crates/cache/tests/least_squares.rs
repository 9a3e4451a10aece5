//! The weights of a jump, compared with numpy's least squares.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]

use cache::{Jump, JumpFit};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    /// Products per run of the velocities, the latents and the target displacement.
    products: Vec<Vec<Vec<f64>>>,
    /// Weights of the velocities, and last of the latents.
    weights: Vec<f64>,
}

/// Cases of `make_least_squares.py`: velocities that are far apart, and some that are nearly the same. The observed
/// error stays below 2e-10 of the largest weight: normal equations square the vectors' condition number, which the
/// ridge bounds.
#[test]
fn weights_are_numpys() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("least_squares.json")).unwrap();
    assert_eq!(cases.len(), 12);
    for Case { products, weights: expected } in cases {
        let mut fit = JumpFit::new(expected.len() - 1);
        products.iter().for_each(|run| fit.add(run));
        let Jump { velocities, latents } = fit.jump();
        let largest = expected.iter().fold(0.0, |most: f64, weight| most.max(weight.abs()));
        let found = velocities.iter().chain([&latents]);
        let off = found.zip(&expected).fold(0.0, |most: f64, (a, b)| most.max((a - b).abs())) / largest;
        println!("{} velocities: off by {off:.1e} of the largest weight, allowed 1e-8", velocities.len());
        assert!(off < 1e-8, "{velocities:?} {latents}, {expected:?}");
    }
}
