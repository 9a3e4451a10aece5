//! What turns and jobs take: predictions from measured curves over the work of turns, corrected by what is observed.
//!
//! Two measures of a job are told apart. Its *work* is the part of a device that it takes up, in
//! seconds of a device whose steps are full: it says who goes first and when everything is done.
//! Its *alone time* is how long it takes on a device of its own: more than its work, where a picture
//! is too small to fill one.

use std::time::Duration;

use diffusion::{PreviewMethod, RequestCost};

use crate::booked_job::{Job, Needs};
use crate::calibration::Calibration;
use crate::curve::Curve;
use crate::pace::Pace;
use crate::reuse::Reuse;
use crate::times::Times;

/// Steps before anything was measured: those of a large model on a large GPU, which a picture of
/// 1024x1024 fills. The first observed step corrects the seconds, nothing the shape.
const NOMINAL: [(f64, f64); 2] = [(1.0, 0.1), (7e13, 0.2)];

/// Which estimate of a time is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Estimate {
    /// What is to be expected.
    Expected,
    /// What it will hardly fall below: far less for works of a size that was never seen.
    AtLeast,
}

/// Predicts how long turns and jobs take. Devices are taken to be alike.
#[derive(Debug)]
pub(crate) struct CostModel {
    steps: Times,
    encode: Times,
    /// Of pictures, and of previews that are drawn like them.
    decode: Times,
    /// Of previews without the VAE.
    sketch: Times,
    /// Of either that is brought to the size asked for.
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
    /// Takes over what was measured; what was not stays as it is.
    pub(crate) fn calibrate(&mut self, calibration: &Calibration) {
        self.steps.calibrate(&calibration.steps);
        self.encode.calibrate(&calibration.encode);
        self.decode.calibrate(&calibration.decode);
        self.fit.calibrate(&calibration.fit);
    }

    /// The load that a job's next step is expected to be.
    pub(crate) fn load(&self, job: &Job) -> f64 {
        self.next_load(job, Estimate::Expected)
    }

    /// The load that the steps left of a job are expected to be, in the mean.
    pub(crate) fn mean_load(&self, job: &Job) -> f64 {
        let left = self.loads(&job.cost, Estimate::Expected).left(&job.cost, job.steps_taken());
        left / job.steps_left.max(1) as f64
    }

    /// Seconds of a step with this load. Where there is none, no pass is made.
    pub(crate) fn step(&self, load: f64) -> f64 {
        if load > 0.0 { self.curve().seconds(load) } else { 0.0 }
    }

    /// The load from which on throughput hardly grows.
    pub(crate) fn budget(&self) -> f64 {
        self.curve().budget()
    }

    fn curve(&self) -> &Curve {
        self.steps.curve().expect("steps begin with a nominal curve. This is a bug.")
    }

    /// What is left to do of a job, in seconds of a device whose steps are full.
    pub(crate) fn work(&self, job: &Job, estimate: Estimate) -> Duration {
        let seconds = |load| {
            let full = self.curve().best_seconds_per_load(load) * load;
            full.min(self.step_as(load, estimate))
        };
        self.left(job, seconds, estimate)
    }

    /// How long what is left of a job takes on a device of its own.
    pub(crate) fn alone(&self, job: &Job, estimate: Estimate) -> Duration {
        self.left(job, |load| self.step_as(load, estimate), estimate)
    }

    /// How long a job takes on a device of its own, and what is left of it as of [`CostModel::alone`]. Asked for at every
    /// turn for each job that is in hand: what both have in common is looked up once.
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

    /// Seconds that go by before a job can take its next step, once its turn begins.
    pub(crate) fn before_step(&self, job: &Job) -> f64 {
        self.before_step_as(job, Estimate::Expected)
    }

    /// How long a turn of these jobs takes: a step of several, or whatever the one needs.
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

    /// What is left of a job whose steps take so many seconds for their load.
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

    /// Seconds of a turn with so much work; of a kind that was never seen, what full steps would take for it is to be
    /// expected.
    fn turn(&self, times: &Times, work: f64, estimate: Estimate) -> f64 {
        match (estimate, times.curve()) {
            (Estimate::AtLeast, _) => times.at_least(work),
            (Estimate::Expected, Some(curve)) => curve.seconds(work),
            (Estimate::Expected, None) => self.curve().full_seconds_per_load() * work,
        }
    }

    /// A step with this load, as it turned out, took so long.
    pub(crate) fn observe_step(&mut self, load: f64, took: Duration) {
        self.steps.observe(load, took.as_secs_f64());
    }

    /// A step of such a request computed this share of its blocks.
    pub(crate) fn observe_share(&mut self, cost: &RequestCost, share: f64) {
        if cost.known.is_none() {
            self.reuse.observe(cost.kind, share);
        }
    }

    /// An encoding in which so much was computed took so long.
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

    /// The part that drawing is expected to have in a turn that then brings the picture to the size asked for. The two
    /// are measured together, and both are taken to have been as much slower as their sum.
    fn share_drawn(&self, method: PreviewMethod, work: f64, cost: &RequestCost) -> f64 {
        let drawn = self.turn(self.drawn(method), work, Estimate::Expected);
        let both = drawn + self.fit(cost, Estimate::Expected);
        if both > 0.0 { drawn / both } else { 1.0 }
    }
}

/// At most some thirty years, so that the sum of many is a duration too.
fn duration(seconds: f64) -> Duration {
    // To the nearest; what is no number is 0.
    Duration::from_nanos((seconds.clamp(0.0, 1e9) * 1e9 + 0.5) as u64)
}

#[cfg(test)]
mod tests {
    use diffusion::{PreviewTimes, Previews, Work};

    use super::Estimate::{AtLeast, Expected};
    use super::*;
    use crate::config::JobOptions;
    use crate::testing::cost;

    /// A step of up to 64 takes a second, an encoding 3 s, and a decoding a quarter of a second for a token.
    fn model() -> CostModel {
        let mut model = CostModel::default();
        let steps = vec![(16.0, 1.0), (64.0, 1.0), (128.0, 2.0)];
        model.calibrate(&Calibration {
            steps,
            encode: vec![(1.0, 3.0)],
            decode: vec![(1.0, 0.25)],
            fit: vec![(1.0, 0.5)],
        });
        model
    }

    fn job(cost: RequestCost) -> Job {
        Job::new(0, cost, JobOptions::default(), Duration::ZERO)
    }

    fn seconds(duration: Duration) -> f64 {
        (duration.as_secs_f64() * 1e3).round() / 1e3
    }

    #[test]
    fn a_small_picture_takes_longer_alone_than_its_part_of_a_full_device() {
        let small = job(cost(16, 8));
        // 3 s of encoding, 4 s of decoding, and 8 steps of 1 s, or of a quarter.
        assert_eq!(seconds(model().alone(&small, Expected)), 15.0);
        assert_eq!(seconds(model().work(&small, Expected)), 9.0);
        let encoded = Job { needs: Needs::Step, steps_left: 2, ..small };
        assert_eq!(seconds(model().alone(&encoded, Expected)), 6.0);
        let (whole, left) = model().whole_and_left(&encoded);
        assert_eq!((seconds(whole), seconds(left)), (15.0, 6.0));
    }

    #[test]
    fn a_model_is_corrected_by_what_is_observed() {
        let mut model = model();
        (0..9).for_each(|_| model.observe_step(100.0, Duration::from_secs_f64(2.0 * 1.5625)));
        assert!((model.step(64.0) - 2.0).abs() < 0.02, "works of about this size take twice as long");
        model.observe_encode(1.0, Duration::from_secs(5));
        model.observe_decode(&cost(16, 1), Duration::from_secs(12));
        let all = model.alone(&job(cost(16, 1)), Expected).as_secs_f64();
        assert!((all - (5.0 + 1.0 + 12.0)).abs() < 0.4, "{all}");
    }

    #[test]
    fn what_is_enlarged_takes_longer_and_teaches_what_enlarging_takes() {
        let mut model = model();
        let enlarged = |fit| RequestCost { work: Work { fit, ..cost(16, 8).work }, ..cost(16, 8) };
        let alone = |model: &CostModel, fit| seconds(model.alone(&job(enlarged(fit)), Expected));
        assert_eq!([0.0, 2.0].map(|fit| alone(&model, fit)), [15.0, 16.0]);
        // Decoding and enlarging, 4 s and 2 s, take half as long again.
        (0..50).for_each(|_| model.observe_decode(&enlarged(4.0), Duration::from_secs(9)));
        assert_eq!([0.0, 4.0].map(|fit| alone(&model, fit)), [17.0, 20.0]);
        let previews = Some(Previews { method: PreviewMethod::Vae, times: PreviewTimes::Interval(2) });
        let previewed = RequestCost { previews, ..enlarged(4.0) };
        assert_eq!(seconds(model.alone(&job(previewed), Expected)), 20.0 + 3.0 * 9.0);
    }

    #[test]
    fn of_what_was_never_seen_only_the_least_is_sure() {
        let mut model = model();
        let alone = |model: &CostModel, cost, estimate| seconds(model.alone(&job(cost), estimate));
        assert_eq!(alone(&model, cost(16, 8), AtLeast), 3.0 + 8.0 + 1.0, "the decoding is 16 times what was measured");
        // 16 times the largest step that was measured.
        let huge = RequestCost { work: Work { decode: 1.0, ..cost(2048, 1).work }, ..cost(2048, 1) };
        assert_eq!([Expected, AtLeast].map(|estimate| alone(&model, huge, estimate)), [35.25, 11.25]);
        model.observe_step(2048.0, Duration::from_secs(20));
        assert_eq!([Expected, AtLeast].map(|estimate| alone(&model, huge, estimate)), [23.25; 2]);
        // A step cache may reuse whatever it can.
        let cached = RequestCost { least_share: 0.5, kind: 7, work: Work { reused_step: 64.0, ..huge.work }, ..huge };
        assert_eq!(alone(&model, cached, AtLeast), 3.0 + 1.0 + 0.25);
        model.observe_share(&cached, 1.0);
        assert_eq!(alone(&model, cached, AtLeast), 23.25);
        assert_eq!(CostModel::default().alone(&job(huge), AtLeast), Duration::ZERO, "nothing is known at all");
    }

    #[test]
    fn pictures_to_edit_make_an_encoding_longer() {
        let mut model = CostModel::default();
        model.calibrate(&Calibration { encode: vec![(100.0, 1.0)], ..Calibration::default() });
        let edit = |encode| job(RequestCost { work: Work { encode, ..Work::default() }, ..cost(16, 1) });
        assert!((model.before_step(&edit(1000.0)) - 10.0).abs() < 1e-9, "ten times what was measured");
        model.observe_encode(1000.0, Duration::from_secs(30));
        assert!(model.before_step(&edit(1000.0)) > 29.0 && model.before_step(&edit(100.0)) < 1.1);
    }

    #[test]
    fn reuse_makes_a_request_lighter_and_never_lighter_than_it_can_be() {
        let mut model = model();
        let work = Work { step: 128.0, reused_step: 64.0, ..cost(64, 9).work };
        let cached = RequestCost { least_share: 0.5, kind: 7, work, ..cost(64, 9) };
        let load = |model: &CostModel, cost| model.load(&job(cost));
        assert_eq!(load(&model, cached), 128.0);
        model.observe_share(&cached, 0.75);
        assert_eq!(load(&model, cached), 96.0);
        (0..400).for_each(|_| model.observe_share(&cached, 0.1));
        assert_eq!(load(&model, cached), 64.0);
        assert_eq!(load(&model, RequestCost { kind: 8, ..cached }), 128.0);
    }

    #[test]
    fn previews_are_part_of_what_a_job_takes() {
        let mut model = model();
        let with = |method| {
            let previews = Some(Previews { method, times: PreviewTimes::Interval(2) });
            job(RequestCost { previews, ..cost(16, 8) })
        };
        // Three previews, each as long as a decoding.
        let vae = with(PreviewMethod::Vae);
        assert_eq!(seconds(model.alone(&vae, Expected)), 15.0 + 3.0 * 4.0);
        let late = Job { needs: Needs::Preview, steps_left: 4, ..vae };
        assert_eq!(seconds(model.alone(&late, Expected)), 4.0 + 2.0 * 4.0 + 4.0, "that which is due and the last");
        assert_eq!(model.before_step(&late), 4.0);
        let sketched = with(PreviewMethod::Latent2Rgb);
        model.observe_preview(&sketched.cost, Duration::from_secs(1));
        assert_eq!(seconds(model.alone(&sketched, Expected)), 15.0 + 3.0);
        assert_eq!(seconds(model.alone(&vae, Expected)), 27.0, "the other kind is as it was");
        (0..50).for_each(|_| model.observe_preview(&vae.cost, Duration::from_secs(8)));
        assert!(model.alone(&vae, Expected).as_secs_f64() > 42.0);
    }

    #[test]
    fn no_request_is_too_much_to_be_foreseen() {
        let work = Work { step: 1e300, reused_step: 1e300, ..Work::default() };
        let endless = job(RequestCost { work, ..cost(16, 1000) });
        assert_eq!(model().alone(&endless, Expected).as_secs_f64(), 1e9);
    }

    #[test]
    fn nothing_measured_leaves_the_nominal_curve() {
        let mut model = CostModel::default();
        model.calibrate(&Calibration::default());
        assert_eq!(model.step(7e13), 0.2);
        assert!(model.budget() > 5e13);
        assert!(
            model.before_step(&job(RequestCost { work: Work { encode: 7e13, ..Work::default() }, ..cost(16, 1) }))
                > 0.1
        );
    }
}
