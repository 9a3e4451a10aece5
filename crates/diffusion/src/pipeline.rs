//! The contract between the scheduler and the models.

use crate::{CfgBranch, Estimator, ImageRequest, Interrupt, ModelCard, PreviewMethod, RgbImage};

/// The operations that a scheduler needs from a model: start a request, advance any set of requests by one denoising
/// step, and decode finished latents to a picture.
///
/// A pipeline lives on the one thread that owns its device and uses no channel. Requests of different sizes, step
/// counts, prompts and guidance may step together. A request's picture does not depend on the other requests of a
/// batch.
///
/// Each stage takes an [`Interrupt`] and checks it often: between blocks and inside large operations. Once it is set,
/// the stage returns [`PipelineError::Interrupted`] and nothing else.
pub trait Pipeline {
    /// The state of one request from step to step: latents, prompt embeddings, sigmas, step index, sampler history,
    /// caches. A clone shares the device memory of the original, so that a step that ran out of memory can be rolled
    /// back. Dropping the last clone frees the memory.
    type State: Clone;

    /// The description of the model.
    fn card(&self) -> &ModelCard;

    /// Returns an estimator of a request's cost.
    fn estimator(&self) -> Estimator;

    /// Encodes the prompts and the input pictures and draws the noise. The request is then at step 0.
    ///
    /// # Errors
    /// [`PipelineError::Invalid`] for a bound that only the model can check, such as its limit on prompt tokens.
    fn prepare(&mut self, request: &ImageRequest, interrupt: &Interrupt) -> Result<Self::State, PipelineError>;

    /// Text-encoder tokens of the prompts without those of the template, for usage reports.
    fn prompt_tokens(&self, state: &Self::State) -> usize;

    /// The request's use of the pipeline's encoding cache. The default, without such a cache, is empty.
    fn encodings(&self, _state: &Self::State) -> EncodingsUse {
        EncodingsUse::default()
    }

    /// Bytes of device memory kept between requests: cached encodings, tables.
    fn kept_bytes(&self) -> u64 {
        0
    }

    /// Bytes of free device memory that requests may use. `None` if unknown.
    fn free_bytes(&self) -> Option<u64> {
        None
    }

    /// Warnings for the client, as sentences: what was requested but is not possible.
    fn warnings(&self, _state: &Self::State) -> Vec<String> {
        Vec::new()
    }

    /// Advances every request of `batch` by one step, an evaluation of the transformer. Returns one report per request,
    /// in the same order. A request has [`SamplingParams::num_evaluations`](crate::SamplingParams::num_evaluations)
    /// steps, whatever its [`Sampler`](crate::Sampler): requests with different samplers step together. Every request
    /// of the batch must have a step left.
    ///
    /// # Errors
    /// The whole batch failed; the states must not be used again.
    fn step(&mut self, batch: &mut [&mut Self::State], interrupt: &Interrupt)
    -> Result<Vec<StepReport>, PipelineError>;

    /// Draws a preview of the requested size, from the last step's estimate of the clean latents, x0 = x - sigma v.
    /// Called only after steps for which [`Previews::is_due`](crate::Previews::is_due) holds, for a request with
    /// previews. It does not change the request.
    ///
    /// # Errors
    /// [`PipelineError::NotFinite`] if the estimate is not finite, or the device failed. The state remains usable.
    fn preview(
        &mut self,
        state: &Self::State,
        method: PreviewMethod,
        interrupt: &Interrupt,
    ) -> Result<RgbImage, PipelineError>;

    /// Copies the request's current latents to the host, in f32, in the order in which the model packs them. They
    /// remain available after [`Pipeline::release`].
    ///
    /// # Errors
    /// The device failed.
    fn latents(&self, state: &Self::State) -> Result<Vec<f32>, PipelineError>;

    /// Frees what only further steps would need, such as the step cache's residuals. Called before a request is
    /// decoded. The decode may be repeated if the first attempt ran out of memory.
    fn release(&mut self, state: &mut Self::State);

    /// Decodes the latents to a picture of the requested size.
    ///
    /// # Errors
    /// [`PipelineError::NotFinite`] if the latents or pixels are not finite, or the device failed.
    fn decode(&mut self, state: Self::State, interrupt: &Interrupt) -> Result<RgbImage, PipelineError>;
}

/// Forwards to a boxed pipeline, so that model families can share one type.
impl<P: Pipeline + ?Sized> Pipeline for Box<P> {
    type State = P::State;

    fn card(&self) -> &ModelCard {
        (**self).card()
    }

    fn estimator(&self) -> Estimator {
        (**self).estimator()
    }

    fn prepare(&mut self, request: &ImageRequest, interrupt: &Interrupt) -> Result<Self::State, PipelineError> {
        (**self).prepare(request, interrupt)
    }

    fn prompt_tokens(&self, state: &Self::State) -> usize {
        (**self).prompt_tokens(state)
    }

    fn encodings(&self, state: &Self::State) -> EncodingsUse {
        (**self).encodings(state)
    }

    fn kept_bytes(&self) -> u64 {
        (**self).kept_bytes()
    }

    fn free_bytes(&self) -> Option<u64> {
        (**self).free_bytes()
    }

    fn warnings(&self, state: &Self::State) -> Vec<String> {
        (**self).warnings(state)
    }

    fn step(
        &mut self,
        batch: &mut [&mut Self::State],
        interrupt: &Interrupt,
    ) -> Result<Vec<StepReport>, PipelineError> {
        (**self).step(batch, interrupt)
    }

    fn preview(
        &mut self,
        state: &Self::State,
        method: PreviewMethod,
        interrupt: &Interrupt,
    ) -> Result<RgbImage, PipelineError> {
        (**self).preview(state, method, interrupt)
    }

    fn latents(&self, state: &Self::State) -> Result<Vec<f32>, PipelineError> {
        (**self).latents(state)
    }

    fn release(&mut self, state: &mut Self::State) {
        (**self).release(state);
    }

    fn decode(&mut self, state: Self::State, interrupt: &Interrupt) -> Result<RgbImage, PipelineError> {
        (**self).decode(state, interrupt)
    }
}

/// A request's use of the pipeline's encoding cache.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EncodingsUse {
    /// Prompt embeddings, including pictures that the text encoder sees with the prompt.
    pub prompts: Lookups,
    /// Vision tower features of pictures.
    pub vision: Lookups,
    /// VAE latents of pictures.
    pub references: Lookups,
    /// Bytes in the cache afterwards, over all requests.
    pub bytes: u64,
    /// Floating point operations of the computed encodings.
    pub work: f64,
}

/// Cache lookups of one kind of encoding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lookups {
    /// Encodings found in the cache.
    pub hits: usize,
    /// Encodings that were computed.
    pub misses: usize,
}

/// The result of one step for one request.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// Index of the step, from 0.
    pub step_index: usize,
    /// One entry per run of cacheable blocks in the step.
    pub runs: Vec<BlockRun>,
    /// Share of the transformer's blocks that ran, over all passes: 1 if nothing was reused.
    pub computed_share: f64,
    /// Number of planned reuse steps directly after this one that are now computed, because the request departs from
    /// the plan's trajectory.
    pub also_computed: usize,
}

impl StepReport {
    /// Whether every run of blocks was computed.
    pub fn computed(&self) -> bool {
        self.runs.iter().all(|run| !run.reused)
    }
}

/// Whether the middle blocks of one branch and segment ran in a step, and why.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockRun {
    /// The guidance branch.
    pub branch: CfgBranch,
    /// The list of blocks, e.g. `transformer_blocks`.
    pub segment: &'static str,
    /// Whether stored residuals replaced the blocks.
    pub reused: bool,
    /// The reason, in one word: `uncached`, `warmup`, `similar`, `different`, …
    pub reason: &'static str,
    /// The relative change of the first blocks' residual, if it was measured.
    pub residual_diff: Option<f32>,
}

/// The reason why a pipeline failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PipelineError {
    /// The request is outside a bound of the model.
    #[error(transparent)]
    Invalid(#[from] crate::InvalidRequest),
    /// The device has too little memory for this batch.
    #[error("out of device memory")]
    OutOfMemory,
    /// The computation itself failed.
    #[error("the model failed: {0}")]
    Model(String),
    /// Every further operation on the device fails; the pipeline is unusable.
    #[error("the device is lost: {0}")]
    DeviceLost(String),
    /// The computation produced values that are not finite.
    #[error("there is no picture: the {what} are not finite numbers (NaN or infinity)")]
    NotFinite {
        /// The values, in the plural: `latents`, `pixels`.
        what: &'static str,
    },
    /// The [`Interrupt`] was set; the states of the turn must not be used again.
    #[error("the work was interrupted")]
    Interrupted,
}
