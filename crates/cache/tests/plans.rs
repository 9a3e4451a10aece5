//! Plans of matrices that no model would produce: whatever was measured, a plan keeps its promises.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]

use cache::{Aim, Calibration, FittedPlan, Gram, Jump, Planner, Psnr, RunSpec};
use proptest::prelude::*;

/// Maximum length of a jump in steps, including the one that it starts from.
const LONGEST_JUMP: usize = 12;

/// Scalar products of `levels` noise levels: of real vectors, or inconsistent.
fn any_matrix(levels: usize) -> impl Strategy<Value = Vec<Vec<f64>>> {
    let numbers = |scale: f64| prop::collection::vec(prop::collection::vec(-scale..scale, levels), levels);
    let of_vectors = numbers(2.0).prop_map(move |vectors| {
        let product = |i: usize, j: usize| vectors[i].iter().zip(&vectors[j]).map(|(a, b)| a * b).sum();
        (0..levels).map(|i| (0..levels).map(|j| product(i, j)).collect()).collect()
    });
    prop_oneof![of_vectors, numbers(1.0), numbers(1e9), Just(vec![vec![0.0; levels]; levels])]
}

/// A calibration with every plan of these scalar products.
fn calibration(matrix: &[Vec<f64>]) -> Calibration {
    let steps = matrix.len() - 1;
    let sigmas: Vec<_> = (0..=steps).map(|i| 1.0 - i as f64 / steps as f64).collect();
    let plan = |path: cache::StepPath| FittedPlan {
        jumps: vec![Jump::euler(); path.computed.len()],
        changes: Vec::new(),
        psnr: Psnr::of(vec![20.0 + path.computed.len() as f64]),
        computed: path.computed,
    };
    Calibration {
        class: "Some".into(),
        model: "digest".into(),
        num_inference_steps: steps,
        guidance: None,
        pictures: 1,
        plans: Planner::new(Gram::from_triangle(matrix), &sigmas).paths().into_iter().map(plan).collect(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn any_matrix_has_plans_that_keep_their_word(
        matrix in (3_usize..=14).prop_flat_map(|steps| any_matrix(steps + 1)),
        steps in 1_usize..=60,
        budget in 0.001_f64..=1.0,
        promise in 0.0_f64..=100.0,
    ) {
        let calibration = calibration(&matrix);
        let calibrated = matrix.len() - 1;
        prop_assert_eq!(calibration.check(), Ok(()));
        // One plan for every number of steps, down to the minimum that jumps can span.
        let counts: Vec<_> = calibration.plans.iter().map(|plan| plan.computed.len()).collect();
        let fewest = calibrated.div_ceil(LONGEST_JUMP);
        prop_assert_eq!(counts, (fewest..=calibrated).collect::<Vec<_>>());

        let run = RunSpec { model: "digest", steps, guided: false };
        for aim in [Aim::Budget(budget), Aim::Psnr(promise)] {
            let Ok(plan) = calibration.plan(run, aim) else {
                prop_assert!(steps < fewest, "there is a plan for {} steps", steps);
                continue;
            };
            prop_assert_eq!(plan.mask().len(), steps);
            prop_assert!(plan.mask().computes(0) && plan.jump(0).is_some());
            let computed = (0..steps).filter(|&step| plan.mask().computes(step)).count();
            match aim {
                Aim::Budget(share) => {
                    let most = (share * steps as f64 + 1e-9).floor() as usize;
                    prop_assert_eq!(computed, most.clamp(fewest, calibrated.max(fewest)), "{} of {}", share, steps);
                }
                Aim::Psnr(promise) => {
                    let asked = (fewest..=calibrated).find(|&count| 20.0 + count as f64 >= promise);
                    prop_assert_eq!(computed, asked.unwrap_or(calibrated).min(steps), "{} dB of {}", promise, steps);
                }
            }
        }
    }
}
