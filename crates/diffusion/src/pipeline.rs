//! The contract between whoever schedules requests and whoever computes them.

use crate::{CfgBranch, Estimator, ImageRequest, Interrupt, ModelCard, PreviewMethod, RgbImage};

/// What a scheduler needs of a model: start a request, advance any set of requests by one
/// denoising step, turn finished latents into a picture.
///
/// A pipeline lives on the one thread that owns its device and never sees a channel. Requests
/// of different sizes, step counts, prompts and guidance may step together, and a request's
/// picture does not depend on its company.
///
/// Each stage is given an [`Interrupt`] and looks at it often: between blocks, inside large operations. Once it is
/// set, the stage answers [`PipelineError::Interrupted`] and nothing else.
pub trait Pipeline {
    /// Everything one request carries from step to step: latents, prompt embeddings, sigmas, step
    /// index, what its sampler remembers, caches. A clone shares the device memory of the original, so that a step that
    /// ran out of memory can be taken back; dropping the last one frees it.
    type State: Clone;

    /// What the model says of itself.
    fn card(&self) -> &ModelCard;

    /// Tells what a request will cost.
    fn estimator(&self) -> Estimator;

    /// Encodes the prompts and the pictures to edit and draws the noise: the request is at step 0.
    ///
    /// # Errors
    /// [`PipelineError::Invalid`] for what only the model can judge, such as a prompt over its
    /// token limit.
    fn prepare(&mut self, request: &ImageRequest, interrupt: &Interrupt) -> Result<Self::State, PipelineError>;

    /// Text-encoder tokens of the prompts, the template's own not counted: what usage reports.
    fn prompt_tokens(&self, state: &Self::State) -> usize;

    /// What the pipeline's memory of earlier encodings did for the request's. One without has nothing to tell.
    fn encodings(&self, _state: &Self::State) -> EncodingsUse {
        EncodingsUse::default()
    }

    /// Bytes of device memory that are kept between requests: earlier encodings, tables.
    fn kept_bytes(&self) -> u64 {
        0
    }

    /// Bytes of device memory that nobody uses: what requests may take. `None` where that is not known.
    fn free_bytes(&self) -> Option<u64> {
        None
    }

    /// What whoever sent the request should know, in sentences: what was asked but cannot be had.
    fn warnings(&self, _state: &Self::State) -> Vec<String> {
        Vec::new()
    }

    /// Advances every request of `batch` by one step, an evaluation of the transformer; one report a request, in the same
    /// order. A request has [`SamplingParams::num_evaluations`](crate::SamplingParams::num_evaluations) of them, whatever
    /// its [`Sampler`](crate::Sampler): requests with different ones step together. No request of the batch may have all
    /// its steps behind it.
    ///
    /// # Errors
    /// The whole batch failed; the states are not to be used again.
    fn step(&mut self, batch: &mut [&mut Self::State], interrupt: &Interrupt)
    -> Result<Vec<StepReport>, PipelineError>;

    /// Draws the picture as far as the last step foresees it, of the requested size: from the estimate
    /// of the clean latents, x0 = x - sigma v. Asked only after steps that
    /// [`Previews::is_due`](crate::Previews::is_due) names, of a request that has previews. It changes
    /// nothing of the request.
    ///
    /// # Errors
    /// [`PipelineError::NotFinite`] where there is nothing to see; the device failed. The state may be used on.
    fn preview(
        &mut self,
        state: &Self::State,
        method: PreviewMethod,
        interrupt: &Interrupt,
    ) -> Result<RgbImage, PipelineError>;

    /// The latents as they are, on the host: of the request alone, in f32, in the order in which the model packs them. They
    /// are there after [`Pipeline::release`] too.
    ///
    /// # Errors
    /// The device failed.
    fn latents(&self, state: &Self::State) -> Result<Vec<f32>, PipelineError>;

    /// Lets go what only further steps would need, such as the step cache's residuals: asked before a request is
    /// decoded, which it may be again where the first try ran out of memory.
    fn release(&mut self, state: &mut Self::State);

    /// Turns the latents into a picture of the requested size.
    ///
    /// # Errors
    /// [`PipelineError::NotFinite`] where there is no picture; the device failed.
    fn decode(&mut self, state: Self::State, interrupt: &Interrupt) -> Result<RgbImage, PipelineError>;
}

/// A pipeline behind a pointer, of whichever family.
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

/// What became of a request's prompts and pictures in a pipeline that keeps earlier encodings.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EncodingsUse {
    /// Embeddings of prompts, with the pictures that they speak of where the text encoder sees those.
    pub prompts: Lookups,
    /// What the vision tower makes of a picture.
    pub vision: Lookups,
    /// Latents of pictures.
    pub references: Lookups,
    /// What is kept after that, of all requests.
    pub bytes: u64,
    /// Floating point operations of what was made.
    pub work: f64,
}

/// Encodings of one kind that a request needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lookups {
    /// That were there.
    pub hits: usize,
    /// That were made.
    pub misses: usize,
}

/// What one step did for one request.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// The step that was taken, from 0.
    pub step_index: usize,
    /// Each run of cacheable blocks of the step.
    pub runs: Vec<BlockRun>,
    /// The share of the transformer's blocks that ran, over all passes: 1 where nothing was reused.
    pub computed_share: f64,
    /// So many steps right behind it are computed that were to be skipped: the request goes another way than its plan was
    /// made for.
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
    /// Whether stored residuals stood in for the blocks.
    pub reused: bool,
    /// Why, in a word: `uncached`, `warmup`, `similar`, `different`, …
    pub reason: &'static str,
    /// The relative change of the first blocks' residual, where it was measured.
    pub residual_diff: Option<f32>,
}

/// Why a pipeline could not do its part.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PipelineError {
    /// The request asks for what the model cannot do.
    #[error(transparent)]
    Invalid(#[from] crate::InvalidRequest),
    /// The device has no memory left for this batch.
    #[error("out of device memory")]
    OutOfMemory,
    /// The computation itself failed.
    #[error("the model failed: {0}")]
    Model(String),
    /// The device fails at everything from now on: the pipeline is of no use any more.
    #[error("the device is lost: {0}")]
    DeviceLost(String),
    /// The computation made numbers of which there is no picture.
    #[error("there is no picture: the {what} are not finite numbers (NaN or infinity)")]
    NotFinite {
        /// Which numbers, in the plural: `latents`, `pixels`.
        what: &'static str,
    },
    /// The [`Interrupt`] was set; the states of the turn are not to be used again.
    #[error("the work was interrupted")]
    Interrupted,
}
