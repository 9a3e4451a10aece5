//! What turns and jobs take: predictions from a measured curve, corrected by what is observed.
//!
//! Two measures of a job are told apart. Its *work* is the part of a device that it takes up, in
//! seconds of a device whose steps are full: it says who goes first and when everything is done.
//! Its *alone time* is how long it takes on a device of its own: more than its work, where a picture
//! is too small to fill one.

use std::time::Duration;

use diffusion::RequestCost;

use crate::calibration::Calibration;
use crate::curve::Curve;
use crate::mean::Mean;
use crate::reuse::Reuse;
use crate::state::{Job, Needs};

/// Steps before anything was measured: those of a large model on a large GPU, which a picture of
/// 1024x1024 fills. The first observed step corrects the seconds, nothing the shape.
const NOMINAL: [(f64, f64); 2] = [(1.0, 0.1), (4096.0, 0.2)];

/// Predicts how long turns and jobs take. Devices are taken to be alike.
#[derive(Debug)]
pub(crate) struct CostModel {
    curve: Curve,
    /// Observed seconds of steps over those of the curve.
    correction: Mean,
    /// Seconds of an encoding.
    encode: Mean,
    /// Seconds of a decoding, for each image token.
    decode: Mean,
    reuse: Reuse,
}

impl Default for CostModel {
    fn default() -> Self {
        CostModel {
            curve: Curve::through(&NOMINAL).expect("two points. This is a bug."),
            correction: Mean::default(),
            encode: Mean::default(),
            decode: Mean::default(),
            reuse: Reuse::default(),
        }
    }
}

impl CostModel {
    /// Takes over what was measured; without a step, the curve stays as it is.
    pub(crate) fn calibrate(&mut self, calibration: &Calibration) {
        if let Some(curve) = Curve::through(&calibration.steps) {
            self.curve = curve;
            self.correction = Mean::default();
        }
        calibration.encode.into_iter().for_each(|seconds| self.encode.observe(seconds));
        calibration.decode.into_iter().for_each(|seconds| self.decode.observe(seconds));
    }

    /// The load that a step of this request is expected to be.
    pub(crate) fn load(&self, cost: &RequestCost) -> f64 {
        let share = self.reuse.expected(cost.kind).clamp(cost.least_share, 1.0);
        cost.step_tokens() as f64 * share
    }

    /// Seconds of a step with this load.
    pub(crate) fn step(&self, load: f64) -> f64 {
        self.curve.seconds(load) * self.correction.or(1.0)
    }

    /// The load from which on throughput hardly grows.
    pub(crate) fn token_budget(&self) -> f64 {
        self.curve.budget()
    }

    /// Fewest seconds for a unit of load that any step takes.
    fn best_seconds_per_load(&self) -> f64 {
        self.curve.best_seconds_per_load() * self.correction.or(1.0)
    }

    /// What is left to do of a job, in seconds of a device whose steps are full.
    pub(crate) fn work(&self, job: &Job) -> Duration {
        self.left(job, self.best_seconds_per_load() * self.load(&job.cost))
    }

    /// How long what is left of a job takes on a device of its own.
    pub(crate) fn alone(&self, job: &Job) -> Duration {
        self.left(job, self.step(self.load(&job.cost)))
    }

    /// Seconds until a job is encoded, once its turn begins: none where it is.
    pub(crate) fn encoding(&self, job: &Job) -> f64 {
        if job.needs == Needs::Encode { self.encode.or(0.0) } else { 0.0 }
    }

    fn left(&self, job: &Job, seconds_per_step: f64) -> Duration {
        let encode = self.encoding(job);
        let decode = self.decode.or(0.0) * job.cost.tokens as f64;
        Duration::from_secs_f64(encode + seconds_per_step * job.steps_left as f64 + decode)
    }

    /// A step with this load, as it turned out, took so long.
    pub(crate) fn observe_step(&mut self, load: f64, took: Duration) {
        self.correction.observe(took.as_secs_f64() / self.curve.seconds(load));
    }

    /// A step of a request of this kind computed this share of its blocks.
    pub(crate) fn observe_share(&mut self, kind: u64, share: f64) {
        self.reuse.observe(kind, share);
    }

    pub(crate) fn observe_encode(&mut self, took: Duration) {
        self.encode.observe(took.as_secs_f64());
    }

    pub(crate) fn observe_decode(&mut self, cost: &RequestCost, took: Duration) {
        self.decode.observe(took.as_secs_f64() / cost.tokens as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::JobOptions;
    use crate::testing::cost;

    fn model() -> CostModel {
        let mut model = CostModel::default();
        let steps = vec![(16.0, 1.0), (64.0, 1.0), (128.0, 2.0)];
        model.calibrate(&Calibration { steps, encode: Some(3.0), decode: Some(0.25) });
        model
    }

    fn job(cost: RequestCost) -> Job {
        Job::new(0, cost, JobOptions::default(), Duration::ZERO)
    }

    #[test]
    fn a_small_picture_takes_longer_alone_than_its_part_of_a_full_device() {
        let small = job(cost(16, 8));
        // 3 s of encoding, 4 s of decoding, and 8 steps of 1 s, or of a quarter.
        assert_eq!(model().alone(&small).as_secs_f64(), 15.0);
        assert_eq!(model().work(&small).as_secs_f64(), 9.0);
        let encoded = Job { needs: Needs::Step, steps_left: 2, ..small };
        assert_eq!(model().alone(&encoded).as_secs_f64(), 6.0);
    }

    #[test]
    fn a_model_is_corrected_by_what_is_observed() {
        let mut model = model();
        (0..9).for_each(|_| model.observe_step(100.0, Duration::from_secs_f64(2.0 * 1.5625)));
        assert!((model.step(64.0) - 2.0).abs() < 1e-9, "everything takes twice as long");
        model.observe_encode(Duration::from_secs(5));
        model.observe_decode(&cost(4, 1), Duration::from_secs(3));
        let all = model.alone(&job(cost(16, 1))).as_secs_f64();
        assert!((all - (4.0 + 2.0 + 8.0)).abs() < 1e-9, "{all}");
    }

    #[test]
    fn reuse_makes_a_request_lighter_and_never_lighter_than_it_can_be() {
        let mut model = model();
        let cached = RequestCost { passes: 2, least_share: 0.5, kind: 7, ..cost(64, 9) };
        assert_eq!(model.load(&cached), 128.0);
        model.observe_share(7, 0.75);
        assert_eq!(model.load(&cached), 96.0);
        (0..400).for_each(|_| model.observe_share(7, 0.1));
        assert_eq!(model.load(&cached), 64.0);
        assert_eq!(model.load(&RequestCost { kind: 8, ..cached }), 128.0);
    }

    #[test]
    fn nothing_measured_leaves_the_nominal_curve() {
        let mut model = CostModel::default();
        model.calibrate(&Calibration::default());
        assert_eq!(model.step(4096.0), 0.2);
        assert!(model.token_budget() > 3000.0);
    }
}
