//! The weights of DPM-Solver++(2M) and of UniPC: pure functions of noise levels, in f64.
//!
//! Ports of diffusers' `DPMSolverMultistepScheduler` and `UniPCMultistepScheduler` with `use_flow_sigmas`,
//! `prediction_type="flow_prediction"`, all else at their defaults (order 2, midpoint, `B(h) = e^h - 1`, lower orders at
//! both ends), on the levels that the model's Euler schedule has:
//! <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/schedulers/scheduling_dpmsolver_multistep.py#L893>
//! <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/schedulers/scheduling_unipc_multistep.py#L811>
//!
//! With `alpha = 1 - sigma`, `lambda = ln(alpha / sigma)` and `h` the step in lambda, `alpha_t (1 - e^-h)` is
//! `1 - sigma_t / sigma_s`: the weight that the latents lose and the predicted clean latents gain.

use crate::Sigmas;

/// Weights of a linear combination that gives the next latents.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleWeights {
    /// Weight of the latents that the step starts from.
    pub latents: f64,
    /// Weights of the clean latents predicted by evaluations (`x - sigma v`), newest first.
    pub foreseen: Vec<f64>,
}

/// Weights of the DPM-Solver++(2M) step that starts with evaluation `step`, from the latents before it. It uses at most
/// two evaluations: its own and the previous one.
pub fn dpmpp_2m(sigmas: &Sigmas, step: usize) -> SampleWeights {
    predicted(&levels(sigmas), step)
}

/// Weights of the UniPC step that starts with evaluation `step`, from the [corrected](unipc_corrected) latents. It uses
/// at most two evaluations: its own and the previous one.
pub fn unipc_predicted(sigmas: &Sigmas, step: usize) -> SampleWeights {
    predicted(&unipc_levels(sigmas), step)
}

/// Weights of the corrector at evaluation `step`, from 1. It starts from the corrected latents that the previous step
/// started from, and uses at most three evaluations: its own and the two before.
pub fn unipc_corrected(sigmas: &Sigmas, step: usize) -> SampleWeights {
    corrected(&unipc_levels(sigmas), step)
}

/// The noise level that UniPC assigns to the latents of an evaluation.
///
/// Pure noise gets a level just below 1, as in diffusers, because its lambda is infinite and a correction needs a
/// finite one.
pub fn unipc_level(sigma: f32) -> f32 {
    const NOISE: f64 = 1e-6;
    if (f64::from(sigma) - 1.0).abs() < NOISE { (f64::from(sigma) - NOISE) as f32 } else { sigma }
}

fn levels(sigmas: &Sigmas) -> Vec<f64> {
    sigmas.as_slice().iter().copied().map(f64::from).collect()
}

fn unipc_levels(sigmas: &Sigmas) -> Vec<f64> {
    let mut levels = levels(sigmas);
    levels[0] = f64::from(unipc_level(sigmas.sigma(0)));
    levels
}

/// The order of a step: the number of evaluations so far, at most 2, and 1 for the last step.
fn order(levels: &[f64], step: usize) -> usize {
    let steps_left = levels.len() - 1 - step;
    2.min(steps_left).min(step + 1)
}

fn predicted(levels: &[f64], step: usize) -> SampleWeights {
    let (from, to) = (levels[step], levels[step + 1]);
    let gain = gain(from, to);
    let weights = |slope: f64| SampleWeights { latents: 1.0 - gain, foreseen: vec![gain + slope, -slope] };
    if order(levels, step) == 1 {
        return SampleWeights { latents: 1.0 - gain, foreseen: vec![gain] };
    }
    // Half of the change of the predicted clean latents over the step, extrapolated from the step before.
    let ratio = (lambda(to) - lambda(from)) / (lambda(from) - lambda(levels[step - 1]));
    weights(if ratio.is_finite() { 0.5 * gain * ratio } else { 0.0 })
}

fn corrected(levels: &[f64], step: usize) -> SampleWeights {
    let (from, to) = (levels[step - 1], levels[step]);
    let gain = gain(from, to);
    let h = lambda(to) - lambda(from);
    let of_two = || SampleWeights { latents: 1.0 - gain, foreseen: vec![0.5 * gain, 0.5 * gain] };
    if order(levels, step - 1) == 1 {
        return of_two();
    }
    // Position of the older of the two evaluations before the step, in units of the step, relative to its start.
    let r = (lambda(levels[step - 2]) - lambda(from)) / h;
    if !(r.is_finite() && r < 0.0) {
        return of_two();
    }
    // [1 1; r 1] [rho_1 rho_2] = [b_1 b_2], with b_k = k! phi_{k+1}(-h) (-h)^k / (e^-h - 1).
    let phi_1 = (-h).exp_m1();
    let phi_2 = phi_1 / -h - 1.0;
    let phi_3 = phi_2 / -h - 0.5;
    let (b_1, b_2) = (phi_2 / phi_1, 2.0 * phi_3 / phi_1);
    let rho_1 = (b_1 - b_2) / (1.0 - r);
    let rho_2 = b_1 - rho_1;
    let older = gain * rho_1 / r;
    let newest = gain * rho_2;
    SampleWeights { latents: 1.0 - gain, foreseen: vec![newest, gain - newest - older, older] }
}

/// Weight of the predicted clean latents after a step between two levels; 0 for an empty step.
fn gain(from: f64, to: f64) -> f64 {
    if from > 0.0 { 1.0 - to / from } else { 0.0 }
}

/// Half the logarithm of the signal-to-noise ratio.
fn lambda(sigma: f64) -> f64 {
    (1.0 - sigma).ln() - sigma.ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FlowMatchConfig, Sampler};

    /// Parameters of a normal distribution of the data. Its velocity and the trajectory of a sample are known:
    /// `x = (1 - sigma) mean + spread z`.
    const MEAN: f64 = 0.7;
    const DEVIATION: f64 = 0.35;

    fn spread(sigma: f64) -> f64 {
        ((1.0 - sigma) * DEVIATION).hypot(sigma)
    }

    fn solution(z: f64, sigma: f64) -> f64 {
        (1.0 - sigma) * MEAN + spread(sigma) * z
    }

    fn velocity(x: f64, sigma: f64) -> f64 {
        let gain = (1.0 - sigma) * (DEVIATION / spread(sigma)).powi(2);
        (x - MEAN - gain * (x - (1.0 - sigma) * MEAN)) / sigma
    }

    /// The end of the sampler's trajectory from a start on the exact solution.
    fn solve(sampler: Sampler, sigmas: &Sigmas, z: f64) -> f64 {
        let level = |i: usize| f64::from(sigmas.sigma(i));
        let mut x = solution(z, level(0));
        let (mut start, mut slope, mut foreseen) = (x, 0.0, Vec::new());
        let sum = |start: f64, foreseen: &[f64], weights: SampleWeights| {
            let terms = weights.foreseen.iter().zip(foreseen);
            weights.latents * start + terms.map(|(weight, foreseen)| weight * foreseen).sum::<f64>()
        };
        for evaluation in 0..sampler.num_evaluations(sigmas.num_inference_steps()) {
            let (at, to) = (level(sampler.level(evaluation)), level(sampler.next_level(evaluation)));
            let v = velocity(x, at);
            match sampler {
                Sampler::Heun if evaluation % 2 == 1 => {
                    x = start + (to - level(sampler.level(evaluation - 1))) * 0.5 * (slope + v);
                    continue;
                }
                Sampler::Euler | Sampler::Heun => {
                    (start, slope) = (x, v);
                    x += (to - at) * v;
                }
                Sampler::DpmPp2M => {
                    foreseen.insert(0, x - at * v);
                    x = sum(x, &foreseen, dpmpp_2m(sigmas, evaluation));
                }
                Sampler::UniPc => {
                    foreseen.insert(0, x - f64::from(unipc_level(at as f32)) * v);
                    if evaluation > 0 {
                        x = sum(start, &foreseen, unipc_corrected(sigmas, evaluation));
                    }
                    start = x;
                    x = sum(x, &foreseen, unipc_predicted(sigmas, evaluation));
                }
            }
        }
        x
    }

    /// The root mean square error over a range of starts.
    fn error(sampler: Sampler, sigmas: &Sigmas) -> f64 {
        let last = f64::from(sigmas.sigma(sigmas.num_inference_steps()));
        let zs = || (-8..=8).map(|z| f64::from(z) * 0.25);
        let squares = zs().map(|z| (solve(sampler, sigmas, z) - solution(z, last)).powi(2));
        (squares.sum::<f64>() / zs().count() as f64).sqrt()
    }

    /// Levels from 0.92 to 0.08, evenly spaced in lambda: away from both ends, where a method shows its order.
    fn even(steps: usize) -> Sigmas {
        let level = |i: usize| 1.0 / (1.0 + (5.0 * i as f64 / steps as f64 - 2.5).exp());
        Sigmas::of_levels((0..=steps).map(|i| level(i) as f32).collect())
    }

    fn schedule(shift: f64, steps: usize) -> Sigmas {
        Sigmas::new(&FlowMatchConfig { shift, ..FlowMatchConfig::default() }, steps, 64)
    }

    #[test]
    fn each_method_converges_by_its_order() {
        for (name, sampler) in Sampler::NAMED {
            let order = if sampler == Sampler::Euler { 1.0 } else { 2.0 };
            let errors = [320, 640, 1280].map(|steps| error(sampler, &even(steps)));
            let orders = [errors[0] / errors[1], errors[1] / errors[2]].map(f64::log2);
            println!("{name}: errors {errors:?}, orders {orders:.2?}");
            assert!(orders.iter().all(|seen| (seen - order).abs() < 0.3), "{name}: {orders:?} is not {order}");
        }
    }

    #[test]
    fn along_a_real_schedule_all_come_to_the_same() {
        for shift in [1.0, 3.0] {
            let [euler, others @ ..] = Sampler::NAMED.map(|(_, sampler)| {
                let errors = [20, 200].map(|steps| error(sampler, &schedule(shift, steps)));
                println!("shift {shift}, {}: {errors:?}", sampler.name());
                errors
            });
            assert!(euler[1] < 0.02 && euler[1] < euler[0] / 5.0, "{euler:?}");
            for other in others {
                assert!(other[1] < euler[1] / 5.0 && other[1] < other[0] / 10.0, "{other:?} of {euler:?}");
            }
        }
    }

    #[test]
    fn weights_sum_to_one() {
        let nowhere = Sigmas::of_levels(vec![1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.0]);
        for sigmas in [schedule(1.0, 1), schedule(3.0, 14), schedule(1.0, 1000), even(7), nowhere] {
            for step in 0..sigmas.num_inference_steps() {
                let corrected = (step > 0).then(|| unipc_corrected(&sigmas, step));
                for weights in [dpmpp_2m(&sigmas, step), unipc_predicted(&sigmas, step)].into_iter().chain(corrected) {
                    let sum = weights.latents + weights.foreseen.iter().sum::<f64>();
                    assert!((sum - 1.0).abs() < 1e-9, "{step} of {sigmas:?}: {weights:?}");
                }
            }
        }
    }

    #[test]
    fn with_few_steps_a_method_is_eulers() {
        let is_eulers = |sampler: Sampler, steps| {
            let sigmas = schedule(3.0, steps);
            (solve(sampler, &sigmas, 1.3) - solve(Sampler::Euler, &sigmas, 1.3)).abs() < 2e-6
        };
        for (name, sampler) in Sampler::NAMED.into_iter().skip(1) {
            let fewest = sampler.fewest_steps();
            assert!((1..fewest).all(|steps| is_eulers(sampler, steps)), "{name}");
            assert!((fewest..9).all(|steps| !is_eulers(sampler, steps)), "{name}");
        }
    }

    #[test]
    fn the_last_step_ends_at_what_is_foreseen() {
        let sigmas = schedule(3.0, 20);
        let expected = SampleWeights { latents: 0.0, foreseen: vec![1.0] };
        assert_eq!((dpmpp_2m(&sigmas, 19), unipc_predicted(&sigmas, 19)), (expected.clone(), expected));
    }
}
