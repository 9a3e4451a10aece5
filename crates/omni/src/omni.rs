//! Generation without a server: a model in this process, one call at a time.

use std::time::Instant;

use cache::Calibration;
use candle_core::Device;
use diffusion::{BlockRun, ImageRequest, Interrupt, Limits, ModelCard, Pipeline, Sampler, StepReport, Work};
use models::{AnyPipeline, Placement, RequestState};

use crate::about_device::AboutGpu;
use crate::calibrating::calibrate;
use crate::error::Error;
use crate::generated::{GeneratedImage, Timings};
use crate::input::OmniInput;
use crate::plan_source::check_model;
use crate::sampling_params::OmniDiffusionSamplingParams;

/// A loaded model.
pub struct Omni {
    pub(crate) pipeline: AnyPipeline,
    pub(crate) limits: Limits,
    pub(crate) device: Device,
    /// Digest of the transformer's files.
    pub(crate) digest: String,
    pub(crate) placement: Placement,
    pub(crate) gpu: Option<AboutGpu>,
}

/// A finished denoising step: one evaluation of the transformer.
#[derive(Clone, Copy, Debug)]
pub struct StepProgress {
    /// Steps done so far.
    pub done: usize,
    /// Total number of steps.
    pub total: usize,
    /// Block runs of the step that were computed.
    pub computed: usize,
    /// Block runs of the step that were reused.
    pub reused: usize,
}

impl Omni {
    /// The model's card.
    pub fn card(&self) -> &ModelCard {
        self.pipeline.card()
    }

    /// The device that the model runs on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Which parts of the model are on the device and in host memory.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// The GPU that the model runs on; `None` on a CPU.
    pub fn gpu(&self) -> Option<&AboutGpu> {
        self.gpu.as_ref()
    }

    /// The pipeline, for a scheduler to drive.
    pub fn into_pipeline(self) -> AnyPipeline {
        self.pipeline
    }

    /// The scheduler's estimate of the work of each stage of one picture.
    ///
    /// # Errors
    /// A parameter outside its bound.
    pub fn work(&self, input: impl Into<OmniInput>, params: OmniDiffusionSamplingParams) -> Result<Work, Error> {
        let requests = params.draft(input.into())?.build(self.card(), &self.limits, rand::random)?;
        let estimator = self.pipeline.estimator();
        Ok(requests.first().map(|request| estimator(request).work).unwrap_or_default())
    }

    /// Generates pictures from a prompt, or from a prompt and pictures.
    ///
    /// # Errors
    /// A parameter outside its bound, or the device fails.
    pub fn generate(
        &mut self,
        input: impl Into<OmniInput>,
        params: OmniDiffusionSamplingParams,
    ) -> Result<Vec<GeneratedImage>, Error> {
        self.generate_with_progress(input, params, |_| ())
    }

    /// Does the same as [`Omni::generate`], and calls `progress` after every step.
    ///
    /// # Errors
    /// The same as those of [`Omni::generate`].
    pub fn generate_with_progress(
        &mut self,
        input: impl Into<OmniInput>,
        params: OmniDiffusionSamplingParams,
        mut progress: impl FnMut(StepProgress),
    ) -> Result<Vec<GeneratedImage>, Error> {
        let draft = params.draft(input.into())?;
        let idle: Vec<_> = draft.without_effect(self.card()).iter().map(ToString::to_string).collect();
        let requests = draft.build(self.card(), &self.limits, rand::random)?;
        let started = Instant::now();
        let prepared = requests.iter().map(|request| self.pipeline.prepare(request, &Interrupt::default()));
        let mut states = prepared.collect::<Result<Vec<_>, _>>()?;
        let encode = started.elapsed();

        let started = Instant::now();
        let steps = self.denoise(&requests, &mut states, &mut progress)?;
        let denoise = started.elapsed();

        let warnings = states.iter().map(|state| [idle.clone(), self.pipeline.warnings(state)].concat());
        let warnings: Vec<_> = warnings.collect();
        let started = Instant::now();
        let decoded = states.into_iter().map(|state| self.pipeline.decode(state, &Interrupt::default()));
        let images = decoded.collect::<Result<Vec<_>, _>>()?;
        let timings = Timings { encode, denoise, decode: started.elapsed() };
        let generated = images.into_iter().zip(requests).zip(steps).zip(warnings);
        let told = generated.map(|(((image, request), steps), warnings)| {
            let seed = request.params.seed;
            GeneratedImage { image, seed, steps, warnings, timings }
        });
        Ok(told.collect())
    }

    /// Checks that a calibration belongs to this model.
    ///
    /// # Errors
    /// It belongs to another model.
    pub fn check_plans(&self, calibration: &Calibration) -> Result<(), Error> {
        check_model(calibration, &self.digest)
    }

    /// Calibrates the model on pictures of `inputs`: measures which steps can be skipped, and how. The result is what
    /// `--cache-backend calibrated` plans from. `progress` receives the transformer evaluations done and in total.
    ///
    /// # Errors
    /// A parameter outside its bound, or the device fails.
    pub fn calibrate(
        &mut self,
        inputs: &[OmniInput],
        params: &OmniDiffusionSamplingParams,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Calibration, Error> {
        let mut requests = Vec::new();
        for (input, seed) in inputs.iter().zip(params.seed.unwrap_or(0)..) {
            // A plan replaces the sampler and follows Euler's trajectory.
            let sampler = Some(Sampler::Euler);
            let params = OmniDiffusionSamplingParams { seed: Some(seed), sampler, ..params.clone() };
            requests.extend(params.draft(input.clone())?.build(self.card(), &self.limits, rand::random)?);
        }
        calibrate(&mut self.pipeline, self.digest.clone(), &requests, &mut progress)
    }

    fn denoise(
        &mut self,
        requests: &[ImageRequest],
        states: &mut [RequestState],
        progress: &mut impl FnMut(StepProgress),
    ) -> Result<Vec<Vec<StepReport>>, Error> {
        let total = requests.first().map_or(0, |request| request.params.num_evaluations());
        let mut steps = vec![Vec::with_capacity(total); states.len()];
        for done in 1..=total {
            let reports = self.pipeline.step(&mut states.iter_mut().collect::<Vec<_>>(), &Interrupt::default())?;
            let runs = reports.iter().flat_map(|report| &report.runs);
            let (reused, computed): (Vec<&BlockRun>, Vec<&BlockRun>) = runs.partition(|run| run.reused);
            progress(StepProgress { done, total, computed: computed.len(), reused: reused.len() });
            steps.iter_mut().zip(reports).for_each(|(steps, report)| steps.push(report));
        }
        Ok(steps)
    }
}
