//! A pipeline without a model, for tests: it counts, waits and fails on demand.

mod flaw;
mod gate;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use diffusion::{
    BlockRun, CfgBranch, EditSize, EncodingsUse, Estimator, Guidance, GuidanceKind, Held, ImageRequest, ImageSize,
    InputImageBounds, Interrupt, InvalidRequest, Mask, ModelCard, Pipeline, PipelineError, PreviewMethod, RequestCost,
    RequestMemory, RgbImage, Sampler, SamplingParams, ShapeOf, StepReport, Work,
};

pub use flaw::Flaw;
pub use gate::Gate;
use gate::{go_on, sleep};

/// Paints a picture in the colour of its seed. The last channel of a preview is the number of completed steps.
///
/// A prompt can request a fault, in the form `FAULT in STAGE`: `panic`, `fail`, `nan`, `oom`, `lost` or `invalid` in
/// `prepare`, `step`, `preview` or `decode`. By its estimate a request holds a byte per token. An interrupt ends its
/// delays and its gate. Clones share their probe and their gate.
#[derive(Clone, Debug)]
pub struct FakePipeline {
    /// Duration of a step.
    pub step_delay: Duration,
    /// Duration of a preview.
    pub preview_delay: Duration,
    /// Duration of a decode.
    pub decode_delay: Duration,
    /// The gate that every step waits for before it begins.
    pub gate: Gate,
    /// Tokens for which a step has memory.
    pub memory: Option<usize>,
    /// Whether the device fails in every step.
    pub fails: bool,
    /// The effect of a step cache on requests.
    pub flaw: Flaw,
    /// The calls that panic, counted from 0 over all stages and clones.
    pub panics: Arc<BTreeSet<usize>>,
    /// Record of the pipeline's calls.
    pub probe: Arc<Probe>,
    /// The pipeline's description.
    pub card: ModelCard,
}

/// Record of the calls of a [`FakePipeline`].
#[derive(Debug, Default)]
pub struct Probe {
    /// Number of pipelines created.
    pub loads: AtomicUsize,
    /// Number of states in memory.
    pub states: AtomicUsize,
    /// Number of calls of `prepare`, `step`, `preview` and `decode`.
    pub calls: AtomicUsize,
    batch_sizes: Mutex<Vec<usize>>,
    faults: Mutex<Vec<String>>,
}

impl Probe {
    /// Batch size of each step begun so far, in order.
    pub fn batch_sizes(&self) -> Vec<usize> {
        self.batch_sizes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Number of times that a prompt's fault occurred.
    pub fn prompted(&self, prompt: &str) -> usize {
        let faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        faults.iter().filter(|fault| *fault == prompt).count()
    }

    /// Waits until the pipeline holds no state.
    ///
    /// # Panics
    /// If that takes more than ten seconds.
    pub async fn emptied(&self) {
        for _ in 0..10_000 {
            if self.states.load(Ordering::SeqCst) == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("the pipeline still holds {} states", self.states.load(Ordering::SeqCst));
    }
}

impl Default for FakePipeline {
    fn default() -> Self {
        FakePipeline {
            step_delay: Duration::ZERO,
            preview_delay: Duration::ZERO,
            decode_delay: Duration::ZERO,
            gate: Gate::default(),
            memory: None,
            fails: false,
            flaw: Flaw::default(),
            panics: Arc::default(),
            probe: Arc::default(),
            card: ModelCard {
                native_sizes: Vec::new(),
                knows: Vec::new(),
                class: "FakePipeline".into(),
                dtype: "f32",
                default_size: ImageSize { width: 64, height: 64 },
                max_pixels: 128 * 128,
                default_num_inference_steps: 4,
                low_num_inference_steps: 2,
                high_num_inference_steps: 8,
                default_sampler: Sampler::default(),
                guidance: GuidanceKind::TrueCfg,
                default_guidance_scale: 4.0,
                default_negative_prompt: None,
                input_images: InputImageBounds::NONE,
                edit_size: EditSize::Area { area: 64 * 64, of: ShapeOf::Last },
                max_prompt_tokens: 512,
                dim: 1,
                num_blocks: vec![1],
            },
        }
    }
}

impl FakePipeline {
    fn called(&self) {
        let call = self.probe.calls.fetch_add(1, Ordering::SeqCst);
        assert!(!self.panics.contains(&call), "call {call} was to panic");
    }

    fn fault(&self, prompt: &str, stage: &str) -> Result<(), PipelineError> {
        let Some(fault) = prompt.strip_suffix(stage).map(str::trim_end) else { return Ok(()) };
        self.probe.faults.lock().unwrap_or_else(PoisonError::into_inner).push(prompt.into());
        match fault {
            "panic in" => panic!("the prompt asked for a panic"),
            "fail in" => Err(PipelineError::Model("the prompt asked for a failure".into())),
            "nan in" => Err(PipelineError::NotFinite { what: "latents" }),
            "oom in" => Err(PipelineError::OutOfMemory),
            "lost in" => Err(PipelineError::DeviceLost("the prompt asked for it".into())),
            "invalid in" => Err(InvalidRequest::new("prompt", "have at most 512 tokens", "513 tokens").into()),
            _ => Ok(()),
        }
    }

    /// Returns a factory of clones of this pipeline, for workers.
    pub fn factory(&self) -> impl Fn() -> Result<FakePipeline, PipelineError> + Send + 'static {
        let pipeline = self.clone();
        move || {
            pipeline.probe.loads.fetch_add(1, Ordering::SeqCst);
            Ok(pipeline.clone())
        }
    }
}

/// The state of a request in a [`FakePipeline`].
#[derive(Debug)]
pub struct FakeState {
    request: ImageRequest,
    steps_taken: usize,
    is_released: bool,
    probe: Arc<Probe>,
}

impl Clone for FakeState {
    fn clone(&self) -> Self {
        self.probe.states.fetch_add(1, Ordering::SeqCst);
        let FakeState { request, steps_taken, is_released, probe } = self;
        FakeState {
            request: request.clone(),
            steps_taken: *steps_taken,
            is_released: *is_released,
            probe: probe.clone(),
        }
    }
}

impl Drop for FakeState {
    fn drop(&mut self) {
        self.probe.states.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Pipeline for FakePipeline {
    type State = FakeState;

    fn card(&self) -> &ModelCard {
        &self.card
    }

    fn estimator(&self) -> Estimator {
        Arc::new(|request| {
            let cost = RequestCost::uncached(request);
            let memory = RequestMemory { state: cost.tokens as u64, ..RequestMemory::default() };
            let fit = request.fit.map_or(0.0, |fit| fit.asked.pixels() as f64);
            RequestCost { memory, work: Work { fit, ..cost.work }, ..cost }
        })
    }

    fn prepare(&mut self, request: &ImageRequest, interrupt: &Interrupt) -> Result<FakeState, PipelineError> {
        go_on(interrupt)?;
        self.called();
        self.fault(&request.prompt, "prepare")?;
        self.probe.states.fetch_add(1, Ordering::SeqCst);
        Ok(FakeState { request: request.clone(), steps_taken: 0, is_released: false, probe: self.probe.clone() })
    }

    fn prompt_tokens(&self, state: &FakeState) -> usize {
        state.request.prompt.split_whitespace().count()
    }

    /// Reports the work of an encoding without a cache.
    fn encodings(&self, state: &FakeState) -> EncodingsUse {
        EncodingsUse { work: RequestCost::uncached(&state.request).work.encode, ..EncodingsUse::default() }
    }

    /// The request's notes, and for a request with a mask, a summary of its inputs.
    fn warnings(&self, state: &FakeState) -> Vec<String> {
        let ImageRequest { input_images, mask, .. } = &state.request;
        let told = |mask: &Arc<Mask>| {
            let editable = mask.editable.iter().filter(|&&editable| editable > 0).count();
            format!("{editable} of {} pixels of 1 of {} pictures may change", mask.editable.len(), input_images.len())
        };
        mask.iter().map(told).chain(state.request.notes(&self.card)).collect()
    }

    fn step(&mut self, batch: &mut [&mut FakeState], interrupt: &Interrupt) -> Result<Vec<StepReport>, PipelineError> {
        self.probe.batch_sizes.lock().unwrap_or_else(PoisonError::into_inner).push(batch.len());
        let take = |()| {
            self.called();
            sleep(self.step_delay, interrupt)
        };
        self.gate.pass(interrupt).and_then(take).inspect_err(|_| spoil(batch))?;
        let tokens: usize = batch.iter().map(|state| state.request.params.size.image_seq_len()).sum();
        if self.memory.is_some_and(|memory| tokens > memory) {
            spoil(batch);
            return Err(PipelineError::OutOfMemory);
        }
        if self.fails {
            return Err(PipelineError::Model("the device is broken".into()));
        }
        batch.iter().try_for_each(|state| self.fault(&state.request.prompt, "step"))?;
        Ok(batch.iter_mut().map(|state| report(state, self.flaw.of(&state.request).is_some())).collect())
    }

    fn preview(
        &mut self,
        state: &FakeState,
        _: PreviewMethod,
        interrupt: &Interrupt,
    ) -> Result<RgbImage, PipelineError> {
        self.called();
        self.fault(&state.request.prompt, "preview")?;
        sleep(self.preview_delay, interrupt)?;
        let (size, seed) = (state.request.size(), state.request.params.seed);
        let [red, green, _] = colour(seed);
        Ok(RgbImage { size, pixels: [red, green, state.steps_taken as u8].repeat(size.pixels()) })
    }

    /// One value per completed step, each the seed.
    fn latents(&self, state: &FakeState) -> Result<Vec<f32>, PipelineError> {
        Ok(vec![state.request.params.seed as f32; state.steps_taken])
    }

    fn release(&mut self, state: &mut FakeState) {
        state.is_released = true;
    }

    fn decode(&mut self, state: FakeState, interrupt: &Interrupt) -> Result<RgbImage, PipelineError> {
        self.called();
        self.fault(&state.request.prompt, "decode")?;
        sleep(self.decode_delay, interrupt)?;
        let params = &state.request.params;
        let size = state.request.size();
        assert!(state.is_released, "what only steps need was held in a decoding");
        assert_eq!(state.steps_taken, params.num_evaluations(), "decoded before all steps were taken");
        let [red, green, blue] = colour(params.seed);
        let blue = blue + self.flaw.of(&state.request).unwrap_or(0);
        Ok(RgbImage { size, pixels: [red, green, blue].repeat(size.pixels()) })
    }
}

/// Simulates a step that failed half way: its states must not be used again.
fn spoil(batch: &mut [&mut FakeState]) {
    batch.iter_mut().for_each(|state| state.steps_taken += 1000);
}

/// The colour that a [`FakePipeline`] paints for `seed`.
pub fn colour(seed: u64) -> [u8; 3] {
    [seed as u8, (seed >> 8) as u8, 0x80]
}

fn report(state: &mut FakeState, is_cached: bool) -> StepReport {
    let step_index = state.steps_taken;
    state.steps_taken += 1;
    let run = BlockRun {
        branch: CfgBranch::Cond,
        segment: "transformer_blocks",
        reused: false,
        reason: "uncached",
        residual_diff: None,
    };
    StepReport { step_index, runs: vec![run], computed_share: if is_cached { 0.5 } else { 1.0 }, also_computed: 0 }
}

/// A request for a square picture, from seed 0.
pub fn request(side: usize, num_inference_steps: usize) -> ImageRequest {
    ImageRequest {
        prompt: "a fake".into(),
        negative_prompt: None,
        input_images: Arc::default(),
        mask: None,
        params: SamplingParams {
            size: ImageSize { width: side, height: side },
            num_inference_steps,
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
