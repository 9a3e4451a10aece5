//! Times a picture of a whole model on a GPU, with made-up weights. All figures are measured.

use std::time::{Duration, Instant};

use cache::StepsPolicy;
use candle_core::Device;
use diffusion::{CfgBranch, ImageRequest, Interrupt, Limits, Pipeline, RequestDraft, StepReport};
use gpu::{Busy, PoolMemory};
use latentd::Error;
use models::{AnyPipeline, RequestState};
use serde::Serialize;

use super::model::Family;
use super::setup::{Figures, Setup, Synthetic, milliseconds};
use crate::median::median;
use latentd::terminal;

/// Warm-up steps, which load kernels and select GEMM algorithms. They are enough for some to be reused.
const WARM_UP_STEPS: usize = 8;
/// Words of one token and four bytes. The work estimate assumes four bytes per token, so it is exact for them.
const WORDS: [&str; 4] = [" the", " and", " key", " how"];
/// Tokens of Qwen-Image's template after the prompt, which the transformer sees.
const TRAILING_TOKENS: usize = 5;

/// The figures of a whole model, in milliseconds.
#[derive(Serialize)]
pub(super) struct Whole {
    #[serde(flatten)]
    setup: Setup,
    /// Time to make up the weights and lay them out. No file is read.
    weights_made_ms: f64,
    encode_ms: f64,
    /// The computed steps.
    computed: StepFigures,
    /// The reused steps, if there are any.
    reused: Option<StepFigures>,
    /// One character per step: `1` computed, `C` reused.
    pattern: String,
    decode_ms: f64,
    /// Time from the prompt to the pixels.
    picture_ms: f64,
    memory: Option<Memory>,
}

/// Figures of the steps of one kind.
#[derive(Serialize)]
struct StepFigures {
    steps: usize,
    median_ms: f64,
    fastest_ms: f64,
    slowest_ms: f64,
    /// Floating point operations, in billions.
    gflop: f64,
    /// Device time of one such step, measured separately; `None` on a CPU.
    device: Option<DeviceTime>,
}

/// The part of a step during which the GPU was busy.
#[derive(Serialize)]
struct DeviceTime {
    /// Number of kernel launches, GEMMs, copies and fills.
    calls: usize,
    /// Total time of the calls, from an event before and after each, while the host runs ahead of the GPU.
    busy_ms: f64,
    /// Time of the median step outside the calls.
    outside_ms: f64,
    /// The same, if the whole overhead of the events is subtracted from the calls.
    outside_at_most_ms: f64,
}

/// Bytes of the GPU's memory.
#[derive(Serialize)]
struct Memory {
    /// Bytes of the weights.
    weights_bytes: u64,
    /// Peak bytes of all tensors while a picture was made.
    most_bytes: u64,
    /// Bytes taken from the driver in total, including libraries' workspaces and kernels.
    taken_bytes: u64,
}

/// Times of a picture's stages, in milliseconds.
struct TimedPicture {
    encode: f64,
    steps: Vec<(StepReport, f64)>,
    decode: f64,
    total: f64,
}

/// Times a picture of the whole model.
///
/// # Errors
/// A flag cannot be honoured, the model does not fit, or the device fails.
pub(super) fn time(synthetic: &Synthetic) -> Result<Whole, Error> {
    tell_of_the_cache(synthetic)?;
    let free_before = gpu::memory(&synthetic.loading.on.device.open()?).map(|memory| memory.free);
    terminal::notice("making up weights");
    let started = Instant::now();
    let builder = synthetic.loading.builder(None)?.checkpoint(synthetic.model.checkpoint(None));
    let omni = synthetic.loading.load(builder.limits(Limits::NONE))?;
    let device = omni.device().clone();
    wait(&device)?;
    let weights_made_ms = milliseconds(started);
    let weights = gpu::pool_memory(&device);
    let mut bench = Bench { synthetic, pipeline: omni.into_pipeline(), text_tokens: 0 };

    terminal::notice("warming up");
    bench.picture(0, Some(WARM_UP_STEPS))?;
    gpu::forget_most(&device);
    terminal::notice("timing");
    let (picture, request) = bench.picture(1, None)?;
    let most = gpu::pool_memory(&device);
    let free_after = gpu::memory(&device).map(|memory| memory.free);
    let [computed, reused] = bench.kinds(&device, &picture, &request)?;
    let pattern = picture.steps.iter().map(|(report, _)| if report.computed() { '1' } else { 'C' }).collect();
    Ok(Whole {
        setup: Setup { text_tokens: bench.text_tokens, ..synthetic.setup(&device) },
        weights_made_ms,
        encode_ms: picture.encode,
        computed: computed.ok_or_else(|| Error::Flag("`--cache-config` has no step computed".into()))?,
        reused,
        pattern,
        decode_ms: picture.decode,
        picture_ms: picture.total,
        memory: memory(weights, most, free_before.zip(free_after)),
    })
}

/// Warns if the cache's decisions depend on residual diffs: made-up weights give diffs unlike those of a real model.
fn tell_of_the_cache(synthetic: &Synthetic) -> Result<(), Error> {
    let Some(config) = synthetic.loading.cache.resolve()? else { return Ok(()) };
    let is_static = config.steps_computation_mask.is_some() && config.steps_computation_policy == StepsPolicy::Static;
    if !is_static && config.planned.is_none() {
        terminal::notice(
            "which steps are reused depends on made-up numbers: a mask with \"scm_steps_policy\":\"static\" fixes it",
        );
    }
    Ok(())
}

fn memory(weights: Option<PoolMemory>, most: Option<PoolMemory>, free: Option<(u64, u64)>) -> Option<Memory> {
    let (before, after) = free?;
    let taken_bytes = before.saturating_sub(after);
    Some(Memory { weights_bytes: weights?.held, most_bytes: most?.most, taken_bytes })
}

/// The model, with the request's settings.
struct Bench<'s> {
    synthetic: &'s Synthetic,
    pipeline: AnyPipeline,
    /// Number of tokens of the last text stream.
    text_tokens: usize,
}

impl Bench<'_> {
    /// Makes a picture. Pictures of different `number`s have different prompts. `at_most` bounds the steps.
    fn picture(&mut self, number: usize, at_most: Option<usize>) -> Result<(TimedPicture, ImageRequest), Error> {
        let request = self.request(number)?;
        let started = Instant::now();
        let mut state = self.prepare(&request)?;
        let encode = milliseconds(started);
        let steps = request.params.num_inference_steps.min(at_most.unwrap_or(usize::MAX));
        let steps = (0..steps).map(|_| self.step(&mut state)).collect::<Result<_, _>>()?;
        let before_decode = Instant::now();
        self.pipeline.decode(state, &Interrupt::default())?;
        Ok((TimedPicture { encode, steps, decode: milliseconds(before_decode), total: milliseconds(started) }, request))
    }

    /// A request whose prompts fill the text stream. Different `number`s have different prompts.
    fn request(&self, number: usize) -> Result<ImageRequest, Error> {
        let tokens = match self.synthetic.model.family() {
            Family::QwenImage => self.synthetic.text_tokens() - TRAILING_TOKENS,
            // Padding tokens cost as much as words.
            Family::Klein => 1,
        };
        let draft = RequestDraft {
            prompt: WORDS[2 * number].repeat(tokens),
            negative_prompt: Some(WORDS[2 * number + 1].repeat(tokens)),
            size: Some(self.synthetic.size),
            num_inference_steps: Some(self.synthetic.steps.unwrap_or(self.synthetic.steps() as i64)),
            true_cfg_scale: self.synthetic.true_cfg_scale,
            seed: Some(0),
            ..RequestDraft::default()
        };
        let mut requests = draft.build(self.pipeline.card(), &Limits::NONE, || 0)?;
        Ok(requests.pop().expect("a request is of a picture. This is a bug."))
    }

    fn prepare(&mut self, request: &ImageRequest) -> Result<RequestState, Error> {
        let state = self.pipeline.prepare(request, &Interrupt::default())?;
        self.text_tokens = state.prompt_embeds(CfgBranch::Cond).map_or(0, |embeds| embeds.dims()[0]);
        Ok(state)
    }

    /// Takes a step. Returns its report and its time in milliseconds.
    fn step(&mut self, state: &mut RequestState) -> Result<(StepReport, f64), Error> {
        let started = Instant::now();
        let mut reports = self.pipeline.step(&mut [state], &Interrupt::default())?;
        let time = milliseconds(started);
        Ok((reports.pop().expect("a step of one request has one report. This is a bug."), time))
    }

    /// Figures of the computed and of the reused steps. The device time of one step of each kind is measured.
    fn kinds(
        &mut self,
        device: &Device,
        picture: &TimedPicture,
        request: &ImageRequest,
    ) -> Result<[Option<StepFigures>; 2], Error> {
        let work = self.pipeline.estimator()(request).work;
        let mut kinds = [true, false].map(|is_computed| {
            let times = picture.steps.iter().filter(|(report, _)| report.computed() == is_computed);
            let mut times: Vec<f64> = times.map(|(_, time)| *time).collect();
            times.sort_by(f64::total_cmp);
            let (fastest_ms, slowest_ms) = (*times.first()?, *times.last()?);
            Some(StepFigures {
                steps: times.len(),
                median_ms: median(times),
                fastest_ms,
                slowest_ms,
                gflop: if is_computed { work.step } else { work.reused_step } / 1e9,
                device: None,
            })
        });
        // After the first step, which may store nothing.
        let place = |is_computed| (1..picture.steps.len()).find(|&i| picture.steps[i].0.computed() == is_computed);
        let places = [place(true), place(false)];
        let mut state = self.prepare(request)?;
        for index in 0..=places.iter().flatten().copied().max().unwrap_or(0) {
            for (kind, _) in kinds.iter_mut().zip(places).filter(|(_, place)| *place == Some(index)) {
                let Some(kind) = kind else { continue };
                kind.device = self.watched(device, &state, kind.median_ms)?;
            }
            self.step(&mut state)?;
        }
        Ok(kinds)
    }

    /// Device time of the next step, taken on a copy of `state`. `median_ms` is the median time of its kind.
    fn watched(&mut self, device: &Device, state: &RequestState, median_ms: f64) -> Result<Option<DeviceTime>, Error> {
        let mut copy = state.clone();
        let ahead = Duration::from_secs_f64(median_ms / 1e3);
        let (made, busy) = gpu::busy(device, ahead, || self.step(&mut copy));
        made?;
        let on = self.synthetic.loading.on.device;
        let busy = busy.map_err(|reason| Error::Device { device: on, reason })?;
        Ok(busy.map(|busy| DeviceTime::of(busy, median_ms)))
    }
}

impl DeviceTime {
    fn of(Busy { calls, time, empty_pair }: Busy, median_ms: f64) -> Self {
        let busy_ms = time.as_secs_f64() * 1e3;
        let outside = |busy_ms: f64| (median_ms - busy_ms).max(0.0);
        let events_ms = empty_pair.as_secs_f64() * 1e3 * calls as f64;
        DeviceTime { calls, busy_ms, outside_ms: outside(busy_ms), outside_at_most_ms: outside(busy_ms - events_ms) }
    }
}

fn wait(device: &Device) -> Result<(), Error> {
    let failed = |source| models::LoadError::Device { file: "made-up weights".into(), source };
    Ok(device.synchronize().map_err(failed)?)
}

impl Figures for Whole {
    fn setup(&self) -> &Setup {
        &self.setup
    }

    fn lines(&self) -> Vec<(String, String)> {
        let stage = |name: &str, time: f64| (name.to_owned(), format!("{time:10.2} ms"));
        let mut lines =
            vec![stage("weights made up", self.weights_made_ms), stage("encoding the prompts", self.encode_ms)];
        let kinds = [("a computed step", Some(&self.computed)), ("a reused step", self.reused.as_ref())];
        for (name, kind) in kinds {
            let Some(kind) = kind else { continue };
            lines.push((name.into(), kind.told()));
            lines.extend(kind.device.as_ref().map(|device| (String::new(), device.told(kind.median_ms))));
        }
        lines.push(stage("decoding", self.decode_ms));
        lines.push((format!("a picture in {} steps", self.setup.steps), format!("{:10.3} s", self.picture_ms / 1e3)));
        if self.reused.is_some() {
            lines.push(("the steps".into(), self.pattern.clone()));
        }
        if let Some(Memory { weights_bytes, most_bytes, taken_bytes }) = &self.memory {
            let gb = |bytes: &u64| *bytes as f64 / 1e9;
            let told = format!(
                "{:10.2} GB of weights, {:.2} at most, {:.2} taken from the driver",
                gb(weights_bytes),
                gb(most_bytes),
                gb(taken_bytes)
            );
            lines.push(("memory".into(), told));
        }
        lines
    }
}

impl StepFigures {
    fn told(&self) -> String {
        let Self { steps, median_ms, fastest_ms, slowest_ms, gflop, .. } = self;
        format!(
            "{median_ms:10.2} ms ({fastest_ms:.2} to {slowest_ms:.2}), {steps} of them; {:.3} TFLOP, {:.1} TFLOP/s",
            gflop / 1e3,
            gflop / median_ms
        )
    }
}

impl DeviceTime {
    fn told(&self, median_ms: f64) -> String {
        let share = |time: f64| 100.0 * time / median_ms;
        format!(
            "{:10.2} ms in {} calls; {:.2} ms outside of them, {:.1} % (at most {:.1} %)",
            self.busy_ms,
            self.calls,
            self.outside_ms,
            share(self.outside_ms),
            share(self.outside_at_most_ms)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_calls_time_is_outside() {
        let busy = |time, empty_pair| Busy {
            calls: 100,
            time: Duration::from_micros(time),
            empty_pair: Duration::from_micros(empty_pair),
        };
        let of = |busy| {
            let DeviceTime { busy_ms, outside_ms, outside_at_most_ms, .. } = DeviceTime::of(busy, 10.0);
            [busy_ms, outside_ms, outside_at_most_ms].map(|ms| (ms * 1e3f64).round())
        };
        assert_eq!(of(busy(9_500, 2)), [9_500.0, 500.0, 700.0]);
        // The events can make the calls seem longer than the step.
        assert_eq!(of(busy(10_100, 2)), [10_100.0, 0.0, 100.0]);
    }
}
