//! The cost model: predicted times of turns and jobs, from curves measured over the work of turns and corrected by
//! observation.
//!
//! A job has two measures. Its *work* is the device time that it takes up, in seconds of a device whose steps are full:
//! it decides who goes first and when everything is done. Its *alone time* is its duration on a device of its own: more
//! than its work if the picture is too small to fill the device.

use std::time::Duration;

use diffusion::{PreviewMethod, RequestCost};

use crate::booked_job::{Job, Needs};
use crate::calibration::Calibration;
use crate::curve::Curve;
use crate::pace::Pace;
use crate::reuse::Reuse;
use crate::times::Times;

/// Assumed step times before any measurement: those of a large model on a large GPU, which a picture of 1024x1024
/// fills. The first observed step corrects the seconds but not the shape of the curve.
const NOMINAL: [(f64, f64); 2] = [(1.0, 0.1), (7e13, 0.2)];

/// The kind of estimate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Estimate {
    /// The expected value.
    Expected,
    /// A likely lower bound: far below the expected value for sizes never seen.
    AtLeast,
}

/// Predicts the times of turns and jobs. Devices are assumed to be alike.
#[derive(Debug)]
pub(crate) struct CostModel {
    steps: Times,
    encode: Times,
    /// Decoding pictures, and previews drawn with the VAE.
    decode: Times,
    /// Drawing previews without the VAE.
    sketch: Times,
    /// Resizing either to the requested size.
    fit: Times,
    reuse: Reuse,
}

impl Default for CostModel {
    fn default() -> Self {
        CostModel {
            steps: Times::nominal(&NOMINAL),
            encode: Times::default(),
            decode: Times::default(),
            sketch: Times::default(),
            fit: Times::default(),
            reuse: Reuse::default(),
        }
    }
}

impl CostModel {
    /// Replaces what was measured; what was not measured keeps its times.
    pub(crate) fn calibrate(&mut self, calibration: &Calibration) {
        self.steps.calibrate(&calibration.steps);
        self.encode.calibrate(&calibration.encode);
        self.decode.calibrate(&calibration.decode);
        self.fit.calibrate(&calibration.fit);
    }

    /// Expected load of a job's next step.
    pub(crate) fn load(&self, job: &Job) -> f64 {
        self.next_load(job, Estimate::Expected)
    }

    /// Expected mean load of a job's remaining steps.
    pub(crate) fn mean_load(&self, job: &Job) -> f64 {
        let left = self.loads(&job.cost, Estimate::Expected).left(&job.cost, job.steps_taken());
        left / job.steps_left.max(1) as f64
    }

    /// Seconds of a step with this load; 0 without load, because no pass runs.
    pub(crate) fn step(&self, load: f64) -> f64 {
        if load > 0.0 { self.curve().seconds(load) } else { 0.0 }
    }

    /// The load beyond which throughput hardly grows.
    pub(crate) fn budget(&self) -> f64 {
        self.curve().budget()
    }

    fn curve(&self) -> &Curve {
        self.steps.curve().expect("steps begin with a nominal curve. This is a bug.")
    }

    /// Remaining work of a job, in seconds of a device whose steps are full.
    pub(crate) fn work(&self, job: &Job, estimate: Estimate) -> Duration {
        let seconds = |load| {
            let full = self.curve().best_seconds_per_load(load) * load;
            full.min(self.step_as(load, estimate))
        };
        self.left(job, seconds, estimate)
    }

    /// Remaining time of a job on a device of its own.
    pub(crate) fn alone(&self, job: &Job, estimate: Estimate) -> Duration {
        self.left(job, |load| self.step_as(load, estimate), estimate)
    }

    /// The total and the remaining time of a job on a device of its own, the latter as in [`CostModel::alone`]. Called
    /// for every job in hand at every turn, so common lookups are shared.
    pub(crate) fn whole_and_left(&self, job: &Job) -> (Duration, Duration) {
        let steps = self.loads(&job.cost, Estimate::Expected).map(|load| self.step(load));
        let preview = self.preview(&job.cost, Estimate::Expected);
        let decode = self.decode(&job.cost, Estimate::Expected);
        let encode = self.turn(&self.encode, job.cost.work.encode, Estimate::Expected);
        let previews = |job: &Job| if preview > 0.0 { preview * job.previews_left() as f64 } else { 0.0 };
        let whole = encode + steps.left(&job.cost, 0) + previews(&job.whole()) + decode;
        let encode = if job.needs == Needs::Encode { encode } else { 0.0 };
        let left = encode + steps.left(&job.cost, job.steps_taken()) + previews(job) + decode;
        (duration(whole), duration(left))
    }

    /// Seconds from the start of a job's turn until it can take its next step.
    pub(crate) fn before_step(&self, job: &Job) -> f64 {
        self.before_step_as(job, Estimate::Expected)
    }

    /// Time of a turn of these jobs: a step of several, or the next turn of a single job.
    pub(crate) fn turn_takes(&self, jobs: &[Job], estimate: Estimate) -> Duration {
        let seconds = match jobs {
            [job] if matches!(job.needs, Needs::Encode | Needs::Preview) => self.before_step_as(job, estimate),
            [job] if job.needs != Needs::Step => self.decode(&job.cost, estimate),
            [] => 0.0,
            jobs => self.step_as(jobs.iter().map(|job| self.next_load(job, estimate)).sum(), estimate),
        };
        duration(seconds)
    }

    fn next_load(&self, job: &Job, estimate: Estimate) -> f64 {
        self.loads(&job.cost, estimate).step(&job.cost, job.steps_taken())
    }

    fn loads(&self, cost: &RequestCost, estimate: Estimate) -> Pace {
        Pace::loads(cost, || match estimate {
            Estimate::Expected => self.reuse.expected(cost.kind),
            Estimate::AtLeast => self.reuse.at_least(cost.kind),
        })
    }

    fn step_as(&self, load: f64, estimate: Estimate) -> f64 {
        match estimate {
            Estimate::Expected => self.step(load),
            Estimate::AtLeast => self.steps.at_least(load),
        }
    }

    fn before_step_as(&self, job: &Job, estimate: Estimate) -> f64 {
        match job.needs {
            Needs::Encode => self.turn(&self.encode, job.cost.work.encode, estimate),
            Needs::Preview => self.preview(&job.cost, estimate),
            Needs::Step | Needs::Decode => 0.0,
        }
    }

    /// Remaining time of a job, given the seconds of a step for its load.
    fn left(&self, job: &Job, seconds: impl Fn(f64) -> f64, estimate: Estimate) -> Duration {
        let steps = self.loads(&job.cost, estimate).map(seconds).left(&job.cost, job.steps_taken());
        let encode = if job.needs == Needs::Encode { self.before_step_as(job, estimate) } else { 0.0 };
        let previews = self.preview(&job.cost, estimate) * job.previews_left() as f64;
        let decode = self.decode(&job.cost, estimate);
        let seconds = encode + steps + previews + decode;
        duration(seconds)
    }

    fn preview(&self, cost: &RequestCost, estimate: Estimate) -> f64 {
        match cost.previews.map(|previews| previews.method) {
            None => 0.0,
            Some(method) => self.turn(self.drawn(method), cost.work.preview, estimate) + self.fit(cost, estimate),
        }
    }

    fn decode(&self, cost: &RequestCost, estimate: Estimate) -> f64 {
        self.turn(&self.decode, cost.work.decode, estimate) + self.fit(cost, estimate)
    }

    fn fit(&self, cost: &RequestCost, estimate: Estimate) -> f64 {
        if cost.work.fit > 0.0 { self.turn(&self.fit, cost.work.fit, estimate) } else { 0.0 }
    }

    fn drawn(&self, method: PreviewMethod) -> &Times {
        match method {
            PreviewMethod::Vae => &self.decode,
            PreviewMethod::Latent2Rgb => &self.sketch,
        }
    }

    /// Seconds of a turn of this work. The expected time of a kind never seen is that of full steps of the same work.
    fn turn(&self, times: &Times, work: f64, estimate: Estimate) -> f64 {
        match (estimate, times.curve()) {
            (Estimate::AtLeast, _) => times.at_least(work),
            (Estimate::Expected, Some(curve)) => curve.seconds(work),
            (Estimate::Expected, None) => self.curve().full_seconds_per_load() * work,
        }
    }

    /// Records that a step with this observed load took `took`.
    pub(crate) fn observe_step(&mut self, load: f64, took: Duration) {
        self.steps.observe(load, took.as_secs_f64());
    }

    /// Records the share of the blocks that a step of such a request computed.
    pub(crate) fn observe_share(&mut self, cost: &RequestCost, share: f64) {
        if cost.known.is_none() {
            self.reuse.observe(cost.kind, share);
        }
    }

    /// Records that an encoding that computed this work took `took`.
    pub(crate) fn observe_encode(&mut self, work: f64, took: Duration) {
        self.encode.observe(work, took.as_secs_f64());
    }

    pub(crate) fn observe_preview(&mut self, cost: &RequestCost, took: Duration) {
        let Some(method) = cost.previews.map(|previews| previews.method) else { return };
        let drawn = took.as_secs_f64() * self.share_drawn(method, cost.work.preview, cost);
        let times = match method {
            PreviewMethod::Vae => &mut self.decode,
            PreviewMethod::Latent2Rgb => &mut self.sketch,
        };
        times.observe(cost.work.preview, drawn);
        self.fit.observe(cost.work.fit, took.as_secs_f64() - drawn);
    }

    pub(crate) fn observe_decode(&mut self, cost: &RequestCost, took: Duration) {
        let drawn = took.as_secs_f64() * self.share_drawn(PreviewMethod::Vae, cost.work.decode, cost);
        self.decode.observe(cost.work.decode, drawn);
        self.fit.observe(cost.work.fit, took.as_secs_f64() - drawn);
    }

    /// Expected share of drawing in a turn that also resizes to the requested size. The two are measured together; both
    /// are assumed to deviate by the same factor.
    fn share_drawn(&self, method: PreviewMethod, work: f64, cost: &RequestCost) -> f64 {
        let drawn = self.turn(self.drawn(method), work, Estimate::Expected);
        let both = drawn + self.fit(cost, Estimate::Expected);
        if both > 0.0 { drawn / both } else { 1.0 }
    }
}

/// Clamps to about thirty years, so that sums of many durations do not overflow.
fn duration(seconds: f64) -> Duration {
    // Rounds to the nearest nanosecond; NaN becomes 0.
    Duration::from_nanos((seconds.clamp(0.0, 1e9) * 1e9 + 0.5) as u64)
}

#[cfg(test)]
mod tests;
