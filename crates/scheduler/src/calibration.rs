//! Measures a pipeline before it takes jobs, by generating small pictures with it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use diffusion::{
    Fit, Guidance, Held, ImageRequest, ImageSize, InputImage, Interrupt, MAX_FITTED_PIXELS, ModelCard, Pipeline,
    PipelineError, RequestCost, RgbImage, Sampler, SamplingParams,
};

/// The measurements; empty by default.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Calibration {
    /// (work, seconds) of steps.
    pub(crate) steps: Vec<(f64, f64)>,
    /// (work, seconds) of encodings.
    pub(crate) encode: Vec<(f64, f64)>,
    /// (work, seconds) of decodings.
    pub(crate) decode: Vec<(f64, f64)>,
    /// (work, seconds) of resizing pictures to the requested size.
    pub(crate) fit: Vec<(f64, f64)>,
}

impl fmt::Display for Calibration {
    /// Lists the steps, each with its work and duration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.steps.is_empty() {
            return f.write_str("no steps");
        }
        f.write_str("steps of ")?;
        for (i, (work, seconds)) in self.steps.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            write!(f, "{comma}{:.1} GFLOP in {:.1} ms", work / 1e9, seconds * 1e3)?;
        }
        Ok(())
    }
}

/// The measured steps, smallest load first: the divisor of the default size, and the batch sizes.
const PLAN: [(usize, &[usize]); 4] = [(16, &[1]), (4, &[1, 4]), (2, &[2]), (1, &[1, 2])];

/// Minimum side at the first entry of [`PLAN`]: a model of large pictures is not asked for anything smaller. Larger
/// entries do not predict the time of small pictures.
const LEAST_SIDE: usize = 64;

/// Enlargements per side of the default size that are measured for a model with native sizes, as far as pictures may be
/// enlarged.
const ENLARGED: [usize; 2] = [4, 16];

/// Number of runs of one step or decoding, time permitting; the first may include one-time setup. Short runs are
/// repeated until they took [`ENOUGH`] in total, because any of them may be disturbed.
const RUNS: usize = 3;
const MOST_RUNS: usize = 20;
const ENOUGH: Duration = Duration::from_millis(200);

/// Lets only one of several workers measure its pipeline, because devices are assumed to be alike. Workers that have
/// loaded meanwhile wait, so that they do not disturb the measurement.
#[derive(Clone, Debug)]
pub(crate) struct MeasureOnce(Arc<Mutex<Duration>>);

impl MeasureOnce {
    /// Limits the measurement to `limit`.
    pub(crate) fn new(limit: Duration) -> Self {
        MeasureOnce(Arc::new(Mutex::new(limit)))
    }

    /// Measures until `interrupt` is set. All callers but the first get an empty result.
    pub(crate) fn calibrate<P: Pipeline>(&self, pipeline: &mut P, interrupt: &Interrupt) -> Calibration {
        let mut limit = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::take(&mut *limit) {
            Duration::ZERO => Calibration::default(),
            limit => calibrate(pipeline, limit, interrupt),
        }
    }
}

/// Steps, encodes and decodes until everything is measured, the pipeline fails, or the next measurement would exceed
/// `limit`. The smallest step is measured in any case.
fn calibrate<P: Pipeline>(pipeline: &mut P, limit: Duration, interrupt: &Interrupt) -> Calibration {
    let mut bench = Bench { begun: Instant::now(), limit, interrupt, measured: Calibration::default() };
    match bench.all(pipeline) {
        Ok(_) | Err(PipelineError::Interrupted) => {}
        Err(err) => tracing::warn!(error = %err, "measuring ended early"),
    }
    bench.measured
}

struct Bench<'a> {
    begun: Instant,
    limit: Duration,
    interrupt: &'a Interrupt,
    measured: Calibration,
}

impl Bench<'_> {
    /// Measures as much as time permits. Returns whether that was everything.
    fn all<P: Pipeline>(&mut self, p: &mut P) -> Result<bool, PipelineError> {
        let ImageSize { width, height } = p.card().default_size;
        let is_tiny = |divisor: usize| divisor > 4 && width.min(height) < divisor * LEAST_SIDE;
        for (divisor, batches) in PLAN.into_iter().filter(|(divisor, _)| !is_tiny(*divisor)) {
            if !self.size(p, divisor, batches)? {
                return Ok(false);
            }
        }
        let asked = ENLARGED.map(|times| larger(p.card().default_size, times));
        for asked in asked.into_iter().filter(|asked| asked.pixels() <= MAX_FITTED_PIXELS) {
            if !self.enlarged(p, asked)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Measures one size. Returns whether there was time for all of it.
    fn size<P: Pipeline>(&mut self, p: &mut P, divisor: usize, batches: &[usize]) -> Result<bool, PipelineError> {
        let request = request(p.card(), smaller(p.card().default_size, divisor));
        let cost = p.estimator()(&request);
        if !self.allows(predicted(&self.measured.steps, cost.work.step * batches[0] as f64)) {
            return Ok(false);
        }
        let begun = Instant::now();
        let mut state = p.prepare(&request, self.interrupt)?;
        self.measured.encode.push((cost.work.encode, begun.elapsed().as_secs_f64()));
        for &n in batches {
            if !self.steps(p, &state, &cost, n)? {
                return Ok(false);
            }
        }
        if self.allows(predicted(&self.measured.decode, cost.work.decode)) {
            p.step(&mut [&mut state], self.interrupt)?;
            let seconds = self.decoding(p, state)?;
            self.measured.decode.push((cost.work.decode, seconds));
        }
        Ok(true)
    }

    /// Measures the time of resizing to the requested size, beyond the decoding, for a model that resizes. Returns
    /// whether there was time for it.
    fn enlarged<P: Pipeline>(&mut self, p: &mut P, asked: ImageSize) -> Result<bool, PipelineError> {
        let card = p.card();
        let Some(fit) = Fit::nearest(asked, &card.native_sizes) else { return Ok(true) };
        let request = ImageRequest { fit: Some(fit), ..request(card, fit.made) };
        let work = p.estimator()(&request).work;
        let Some(&(_, alone)) = self.measured.decode.iter().rev().find(|(measured, _)| *measured == work.decode) else {
            return Ok(true);
        };
        if !self.has_time_for(Duration::from_secs_f64(alone).saturating_add(predicted(&self.measured.fit, work.fit))) {
            return Ok(false);
        }
        let mut state = p.prepare(&request, self.interrupt)?;
        p.step(&mut [&mut state], self.interrupt)?;
        let seconds = self.decoding(p, state)?;
        self.measured.fit.push((work.fit, (seconds - alone).max(0.0)));
        Ok(true)
    }

    /// Minimum seconds over repeated decodings of a stepped state.
    fn decoding<P: Pipeline>(&mut self, p: &mut P, mut state: P::State) -> Result<f64, PipelineError> {
        p.release(&mut state);
        let interrupt = self.interrupt;
        let least = self.least(|| {
            let begun = Instant::now();
            p.decode(state.clone(), interrupt)?;
            Ok(begun.elapsed())
        })?;
        Ok(least.as_secs_f64())
    }

    /// Measures the first step of `n` requests like `state`, if time permits.
    fn steps<P: Pipeline>(
        &mut self,
        p: &mut P,
        state: &P::State,
        cost: &RequestCost,
        n: usize,
    ) -> Result<bool, PipelineError> {
        if !self.allows(predicted(&self.measured.steps, cost.work.step * n as f64)) {
            return Ok(false);
        }
        let (interrupt, mut load) = (self.interrupt, 0.0);
        let least = self.least(|| {
            let mut states = vec![state.clone(); n];
            let begun = Instant::now();
            let reports = p.step(&mut states.iter_mut().collect::<Vec<_>>(), interrupt)?;
            load = reports.iter().map(|report| cost.step_work(report.computed_share)).sum();
            Ok(begun.elapsed())
        })?;
        self.measured.steps.push((load, least.as_secs_f64()));
        Ok(true)
    }

    /// Minimum time over one run and as many more as time permits.
    fn least(&self, mut run: impl FnMut() -> Result<Duration, PipelineError>) -> Result<Duration, PipelineError> {
        let first = Instant::now();
        let mut least = run()?;
        for n_runs in 1..MOST_RUNS {
            if !self.has_time_for(least) || n_runs >= RUNS && first.elapsed() > ENOUGH {
                break;
            }
            least = least.min(run()?);
        }
        Ok(least)
    }

    fn allows(&self, predicted: Duration) -> bool {
        self.measured.steps.is_empty() || self.has_time_for(predicted)
    }

    fn has_time_for(&self, predicted: Duration) -> bool {
        self.begun.elapsed().saturating_add(predicted) <= self.limit
    }
}

/// Predicted time of a turn of this work, from the last measurement.
fn predicted(measured: &[(f64, f64)], work: f64) -> Duration {
    let per_work = measured.last().map_or(0.0, |(work, seconds)| seconds / work);
    Duration::try_from_secs_f64(per_work * work).unwrap_or(Duration::MAX)
}

/// `size` with its sides divided by `divisor`.
pub(crate) fn smaller(ImageSize { width, height }: ImageSize, divisor: usize) -> ImageSize {
    ImageSize { width: width.div_ceil(divisor), height: height.div_ceil(divisor) }
}

/// The size with its sides multiplied by `times`.
fn larger(ImageSize { width, height }: ImageSize, times: usize) -> ImageSize {
    ImageSize { width: width * times, height: height * times }
}

/// A request of one step, with the model's minimum number of input pictures. The prompt contains the size, so that no
/// pipeline has its encoding cached.
pub(crate) fn request(card: &ModelCard, size: ImageSize) -> ImageRequest {
    let grey = RgbImage { size, pixels: vec![128; size.pixels() * 3] };
    ImageRequest {
        prompt: format!("a picture of {size} for measuring"),
        negative_prompt: None,
        input_images: (0..card.input_images.min_images).map(|_| InputImage::new(grey.clone())).collect(),
        mask: None,
        params: SamplingParams {
            size,
            num_inference_steps: 1,
            sampler: Sampler::Euler,
            guidance: Guidance::None,
            seed: 0,
        },
        fit: None,
        previews: None,
        cache: None,
        held: Held::default(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::fake::FakePipeline;

    fn fake(step_delay: Duration) -> FakePipeline {
        FakePipeline { step_delay, decode_delay: step_delay, ..FakePipeline::default() }
    }

    /// The work of each measurement, in tokens.
    fn tokens(measured: &[(f64, f64)]) -> Vec<f64> {
        measured.iter().map(|point| point.0 / diffusion::TOKEN_WORK).collect()
    }

    #[test]
    fn a_fast_pipeline_is_measured_at_every_load() {
        let mut pipeline = fake(Duration::from_millis(2));
        let measured = calibrate(&mut pipeline, Duration::from_secs(60), &Interrupt::default());
        // The default size is 64x64: 16 tokens, or 1 token at a divisor of 4.
        assert_eq!(tokens(&measured.steps), [1.0, 4.0, 8.0, 16.0, 32.0]);
        assert!(measured.steps.iter().all(|point| point.1 >= 0.002), "{measured:?}");
        assert_eq!(measured.encode.len(), 3);
        assert_eq!(tokens(&measured.decode), [1.0, 4.0, 16.0]);
        assert!(measured.decode.iter().all(|point| point.1 >= 0.002), "{measured:?}");
        let n_decodings = pipeline.probe.calls.load(Ordering::SeqCst) - pipeline.probe.batch_sizes().len() - 3;
        assert!(n_decodings >= 3 * RUNS, "each may be disturbed: {n_decodings}");
        assert_eq!(measured.fit, []);
        assert_eq!(pipeline.probe.states.load(Ordering::SeqCst), 0, "nothing is left behind");
    }

    #[test]
    fn a_model_of_large_pictures_is_measured_at_small_ones_too() {
        let mut pipeline = fake(Duration::from_millis(1));
        pipeline.card.default_size = ImageSize { width: 1024, height: 1536 };
        let measured = calibrate(&mut pipeline, Duration::from_secs(60), &Interrupt::default());
        assert_eq!(tokens(&measured.decode), [24.0, 384.0, 1536.0, 6144.0], "the first at 64x96");
        assert_eq!(measured.steps.len(), 6);
    }

    #[test]
    fn a_model_of_native_sizes_is_measured_enlarging_too() {
        let mut pipeline = fake(Duration::from_millis(2));
        pipeline.card.native_sizes = vec![pipeline.card.default_size];
        let measured = calibrate(&mut pipeline, Duration::from_secs(60), &Interrupt::default());
        let work: Vec<_> = measured.fit.iter().map(|point| point.0).collect();
        assert_eq!(work, [256.0 * 256.0, 1024.0 * 1024.0]);
        assert_eq!(measured.decode.len(), 3);
    }

    #[test]
    fn a_run_that_was_disturbed_does_not_count() {
        let (limit, interrupt) = (Duration::from_secs(60), Interrupt::default());
        let bench = Bench { begun: Instant::now(), limit, interrupt: &interrupt, measured: Calibration::default() };
        let mut runs = [900, 9, 5].into_iter().cycle().map(Duration::from_millis);
        let least = bench.least(|| Ok(runs.next().unwrap()));
        assert_eq!(least, Ok(Duration::from_millis(5)));
    }

    #[test]
    fn it_is_told_in_plain_words() {
        let steps = vec![(1.5e9, 0.0021), (3e12, 1.25)];
        let measured = Calibration { steps, ..Calibration::default() };
        assert_eq!(measured.to_string(), "steps of 1.5 GFLOP in 2.1 ms, 3000.0 GFLOP in 1250.0 ms");
        assert_eq!(Calibration::default().to_string(), "no steps");
    }

    #[test]
    fn one_worker_measures_while_the_others_wait() {
        let once = MeasureOnce::new(Duration::from_secs(60));
        let (pipeline, gate) = (fake(Duration::ZERO), crate::fake::Gate::closed());
        std::thread::scope(|scope| {
            let measuring = scope.spawn(|| {
                let mut gated = FakePipeline { gate: gate.clone(), ..pipeline.clone() };
                once.calibrate(&mut gated, &Interrupt::default())
            });
            while pipeline.probe.batch_sizes().is_empty() {
                std::thread::yield_now();
            }
            let waiting = scope.spawn(|| once.calibrate(&mut pipeline.clone(), &Interrupt::default()));
            std::thread::sleep(Duration::from_millis(20));
            let waits = !waiting.is_finished();
            gate.open();
            assert!(waits, "while the first is at its first step");
            assert_eq!(measuring.join().unwrap().steps.len(), 5);
            assert_eq!(waiting.join().unwrap(), Calibration::default());
        });
    }

    #[test]
    fn a_slow_pipeline_is_measured_at_few_loads() {
        let mut pipeline = fake(Duration::from_millis(50));
        let measured = calibrate(&mut pipeline, Duration::from_millis(10), &Interrupt::default());
        assert_eq!(measured.steps.len(), 1);
        assert_eq!(pipeline.probe.batch_sizes(), [1]);
    }

    #[test]
    fn a_pipeline_that_fails_has_what_was_measured_before() {
        let mut pipeline = fake(Duration::from_millis(1));
        pipeline.memory = Some(20);
        let measured = calibrate(&mut pipeline, Duration::from_secs(60), &Interrupt::default());
        assert_eq!(tokens(&measured.steps), [1.0, 4.0, 8.0, 16.0]);
    }
}
