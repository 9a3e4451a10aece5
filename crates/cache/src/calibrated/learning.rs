//! Learning: plans from full runs of requests that are served anyway.
//!
//! Learning runs no further steps. The computed steps, the jumps between them and their errors follow from the Gram
//! matrices of full runs ([`Gram`]). The effect of an error of the latents on the picture is measured on the pictures
//! of some of the runs. `latentd cache calibrate` also runs the plans. So it finds better jumps, and measures their
//! errors instead of predicting them.

use super::fitted_plan::{FittedPlan, Psnr};
use super::gram::Gram;
use super::guard::VelocityChange;
use super::planner::{MAX_PLANNED_STEPS, Planner, missed};

/// The kind of a request; plans are learnt from requests of one kind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kind {
    /// The weight of two-pass guidance; `None` for one pass.
    pub guidance: Option<f64>,
    /// Number of steps.
    pub steps: usize,
    /// Image tokens, because noise levels may depend on them.
    pub tokens: usize,
}

/// The measurements of one full run.
#[derive(Clone, Debug, PartialEq)]
pub struct LearntRun {
    /// Gram matrix of its latents at all levels.
    pub gram: Gram,
    /// The mean square error of the picture, in bytes, per squared relative error of the last latents: extrapolated
    /// from a small change of them. `None` if it was not measured.
    pub sensitivity: Option<f64>,
}

/// The state of learning.
#[derive(Clone, Debug, Default)]
pub struct Learning {
    /// The kinds seen last, newest first.
    kinds: Vec<(Kind, Vec<LearntRun>)>,
}

/// Maximum number of kinds that are learnt at a time.
const MOST_KINDS: usize = 8;
/// The sensitivity is measured on one run of this many, starting with the first. It needs a second decoding, which
/// takes longer than a fiftieth of all steps together.
const MEASURED: usize = 4;
/// Minimum number of steps that a plan computes.
const LEAST: usize = 3;
/// Mean square error from rounding the picture and its reference to bytes.
const ROUNDING: f64 = 2.0 / 12.0;

impl Kind {
    /// Whether a step runs two passes.
    pub fn is_guided(&self) -> bool {
        self.guidance.is_some()
    }
}

impl Learning {
    /// The step counts that can be learnt, in words.
    pub const STEPS: &str = "4 to 200";

    /// Whether runs of this kind can be learnt.
    pub fn takes(kind: Kind) -> bool {
        (LEAST + 1..=MAX_PLANNED_STEPS).contains(&kind.steps)
    }

    /// Adds a run over the noise levels `sigmas`. Returns the plans once there are `of` runs of its kind.
    pub fn add(&mut self, kind: Kind, run: LearntRun, of: usize, sigmas: &[f64]) -> Option<Vec<FittedPlan>> {
        let mut runs = match self.kinds.iter().position(|(known, _)| *known == kind) {
            Some(place) => self.kinds.remove(place).1,
            None => Vec::new(),
        };
        runs.push(run);
        if runs.len() >= of {
            self.kinds.retain(|(known, _)| known.is_guided() != kind.is_guided());
            return Some(plans(&runs, sigmas));
        }
        self.kinds.insert(0, (kind, runs));
        self.kinds.truncate(MOST_KINDS);
        None
    }

    /// Number of runs of this kind.
    pub fn pictures_of(&self, kind: Kind) -> usize {
        self.kinds.iter().find(|(known, _)| *known == kind).map_or(0, |(_, runs)| runs.len())
    }

    /// Whether the sensitivity of the next run of this kind is to be measured.
    pub fn measures(&self, kind: Kind) -> bool {
        let runs = self.kinds.iter().find(|(known, _)| *known == kind).map_or(0, |(_, runs)| runs.len());
        runs.is_multiple_of(MEASURED)
    }

    /// Maximum number of runs over the kinds with two passes per step, or with one.
    pub fn pictures(&self, guided: bool) -> usize {
        let runs = self.kinds.iter().filter(|(kind, _)| kind.is_guided() == guided).map(|(_, runs)| runs.len());
        runs.max().unwrap_or(0)
    }
}

/// The plans from these runs, of which there is at least one.
fn plans(runs: &[LearntRun], sigmas: &[f64]) -> Vec<FittedPlan> {
    let usual = usual(runs.iter().filter_map(|run| run.sensitivity));
    let in_parts = |run: &LearntRun| (run.gram.clone().in_parts_of_the_last(), run.sensitivity.unwrap_or(usual));
    let runs: Vec<_> = runs.iter().map(in_parts).collect();
    let mut sum = runs[0].0.clone();
    runs[1..].iter().for_each(|(gram, _)| sum.add(gram));
    let steps = sigmas.len() - 1;
    let planner = Planner::new(sum, sigmas);
    let paths = planner.clone().paths();
    let skipping = paths.into_iter().filter(|path| (LEAST..steps).contains(&path.computed.len()));
    let mut plans: Vec<_> = skipping
        .map(|path| {
            let jumps = planner.jumps(&path.computed);
            let likeness = runs.iter().map(|(gram, sensitivity)| {
                let missed = missed(gram, sigmas, &path.computed, &jumps);
                foreseen(&missed, *sensitivity)
            });
            let psnr = Psnr::of(likeness.collect());
            let grams: Vec<_> = runs.iter().map(|(gram, _)| gram).collect();
            let changes = changes(&grams, sigmas, &path.computed);
            FittedPlan { computed: path.computed, jumps, changes, psnr }
        })
        .collect();
    plans.push(FittedPlan::whole(steps));
    plans
}

/// The mean of the measured sensitivities in dB; at least the first run's was measured.
fn usual(measured: impl Iterator<Item = f64>) -> f64 {
    let logarithms: Vec<_> = measured.map(f64::ln).filter(|logarithm| logarithm.is_finite()).collect();
    match logarithms.len() {
        0 => 0.0,
        n => (logarithms.iter().sum::<f64>() / n as f64).exp(),
    }
}

/// Predicted PSNR in dB of a picture whose jumps have these squared errors.
fn foreseen(missed: &[f64], sensitivity: f64) -> f64 {
    // Errors of several jumps are neither all parallel nor all orthogonal. As far as was observed, their sum and what
    // later steps make of it lie between both cases (see `BENCHMARKS.md`, learnt plans).
    let alike: f64 = missed.iter().map(|square| square.sqrt()).sum();
    let apart = missed.iter().sum::<f64>().sqrt();
    let off = sensitivity * alike * apart + ROUNDING;
    10.0 * (255.0 * 255.0 / off).log10()
}

/// Change of the velocities from each computed step to the next.
fn changes(runs: &[&Gram], sigmas: &[f64], computed: &[usize]) -> Vec<VelocityChange> {
    let way = |step: usize| (step, step + 1);
    let dsigma = |step: usize| sigmas[step + 1] - sigmas[step];
    let of_pair = |pair: &[usize]| {
        let of_run = |gram: &&Gram| {
            let product = |i: usize, j: usize| gram.of_ways(way(i), way(j)) / (dsigma(i) * dsigma(j));
            let (before, now) = (pair[0], pair[1]);
            let apart = product(now, now) - 2.0 * product(now, before) + product(before, before);
            // For equally shaped distributions, mean absolute values have the same ratio as root mean squares.
            (apart.max(0.0) / product(before, before)).sqrt()
        };
        VelocityChange::of(&runs.iter().map(of_run).collect::<Vec<_>>())
    };
    computed.windows(2).map(of_pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Kind = Kind { guidance: Some(3.0), steps: 12, tokens: 64 };

    fn sigmas() -> Vec<f64> {
        (0..=12).map(|i| 1.0 - f64::from(i) / 12.0).collect()
    }

    /// A run whose trajectory bends by `bend`, in more directions than a jump has velocities.
    fn run(bend: f64) -> LearntRun {
        let level = |i: usize| -> Vec<f64> {
            let sigma = sigmas()[i];
            let bent = (3..10).map(|k| bend * (f64::from(k) * sigma).sin());
            [1.0 - sigma, sigma].into_iter().chain(bent).collect()
        };
        let product = |i: usize, j: usize| level(i).iter().zip(level(j)).map(|(a, b)| a * b).sum();
        let rows: Vec<_> = (0..=12).map(|i| (0..=i).map(|j| product(i, j)).collect()).collect();
        LearntRun { gram: Gram::from_triangle(&rows), sensitivity: Some(1000.0) }
    }

    fn learnt(bends: &[f64], sensitivity: f64) -> Vec<FittedPlan> {
        let mut learning = Learning::default();
        let add = |&bend: &f64| {
            let sensitivity = learning.measures(KIND).then_some(sensitivity);
            learning.add(KIND, LearntRun { sensitivity, ..run(bend) }, bends.len(), &sigmas())
        };
        bends.iter().filter_map(add).next_back().unwrap()
    }

    #[test]
    fn there_is_a_plan_of_every_length_and_more_steps_promise_more() {
        let plans = learnt(&[0.1, 0.2, 0.3, 0.15], 1000.0);
        assert_eq!(plans.iter().map(|plan| plan.computed.len()).collect::<Vec<_>>(), (3..=12).collect::<Vec<_>>());
        let calibration = crate::Calibration {
            class: String::new(),
            model: String::new(),
            num_inference_steps: 12,
            guidance: Some(3.0),
            pictures: 4,
            plans,
        };
        assert_eq!(calibration.check(), Ok(()));
        let promised: Vec<_> = calibration.plans.iter().map(|plan| plan.psnr).collect();
        assert!(promised[0].mean + 10.0 < promised[5].mean, "{promised:?}");
        assert!(promised.iter().all(|psnr| psnr.least <= psnr.tenth && psnr.tenth <= psnr.mean));
    }

    #[test]
    fn what_a_change_of_the_latents_does_is_promised() {
        let promised = |sensitivity| learnt(&[0.1, 0.3], sensitivity)[0].psnr.mean;
        let (little, much) = (promised(1e4), promised(1e5));
        // Ten times the squared error, where rounding hardly counts.
        assert!((little - much - 10.0).abs() < 0.5, "{little} {much}");
    }

    #[test]
    fn what_was_measured_of_some_runs_holds_for_the_others() {
        let mut learning = Learning::default();
        let mut measured = String::new();
        for _ in 0..9 {
            measured.push(if learning.measures(KIND) { '1' } else { '0' });
            learning.add(KIND, run(0.1), 16, &sigmas());
        }
        assert_eq!(measured, "100010001");
        let runs = [Some(10.0), None, Some(1000.0)].map(|sensitivity| LearntRun { sensitivity, ..run(0.1) });
        let with_the_mean = [10.0, 100.0, 1000.0].map(|s| LearntRun { sensitivity: Some(s), ..run(0.1) });
        assert_eq!(plans(&runs, &sigmas()), plans(&with_the_mean, &sigmas()));
    }

    #[test]
    fn kinds_are_learnt_apart_and_few_at_a_time() {
        let mut learning = Learning::default();
        let kind = |tokens| Kind { tokens, ..KIND };
        for tokens in 0..20 {
            assert_eq!(learning.add(kind(tokens), run(0.1), 2, &sigmas()), None);
        }
        assert_eq!((learning.kinds.len(), learning.pictures(true), learning.pictures(false)), (MOST_KINDS, 1, 0));
        assert_eq!((learning.pictures_of(kind(19)), learning.pictures_of(kind(0))), (1, 0));
        assert_eq!(learning.add(kind(0), run(0.1), 2, &sigmas()), None, "that was forgotten");
        let other = Kind { guidance: Some(7.0), ..kind(19) };
        assert_eq!(learning.add(other, run(0.2), 2, &sigmas()), None, "guided otherwise");
        assert!(learning.add(kind(19), run(0.2), 2, &sigmas()).is_some());
        assert_eq!(learning.pictures(true), 0, "its kind is known");
        assert!(!Learning::takes(Kind { steps: 3, ..KIND }) && Learning::takes(Kind { steps: 4, ..KIND }));
        assert_eq!(Learning::STEPS, format!("{} to {MAX_PLANNED_STEPS}", LEAST + 1));
    }
}
