//! What becomes of a job: the news on the way and the one answer at the end.

use std::time::Duration;

use diffusion::{PipelineError, RgbImage, StepReport};

/// The one answer that every job gets.
pub type Outcome = Result<Generated, JobError>;

/// A finished picture and how it came about.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// The picture, of the requested size.
    pub image: RgbImage,
    /// Text-encoder tokens of the prompts.
    pub prompt_tokens: usize,
    /// What whoever sent the job should know, in sentences.
    pub warnings: Vec<String>,
    /// Where the time went.
    pub timings: Timings,
    /// Jobs that were before it in line when it was submitted.
    pub position: usize,
    /// One report a denoising step.
    pub steps: Vec<StepReport>,
    /// What the picture was decoded from, as [`Pipeline::latents`](diffusion::Pipeline::latents) has it, where that
    /// was asked for and could be had.
    pub latents: Option<Vec<f32>>,
}

/// Where a job's time went. What the stages leave out of the whole was spent waiting for the
/// turns of others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// From submission until a worker took the job up.
    pub queue: Duration,
    /// Encoding the prompts and pictures and drawing the noise.
    pub encode: Duration,
    /// The denoising steps, each counted whole however many jobs shared it.
    pub denoise: Duration,
    /// Turning the latents into pixels.
    pub decode: Duration,
}

/// News of a job.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// A worker took it up.
    Started {
        /// How long it was in line.
        queued: Duration,
    },
    /// A step is behind it.
    Stepped(StepReport),
    /// The worker that ran it failed, or had no memory for it beside others: it is in line again and runs from its
    /// start, to the same picture. The steps that were told are void and will be told again; previews that were told
    /// are not.
    Restarted,
    /// What the picture will look like, as far as the last step foresees.
    Preview {
        /// Counts the job's previews, from 0.
        index: usize,
        /// Of the requested size.
        image: RgbImage,
    },
    /// Its answer: nothing comes after it.
    Done(Outcome),
}

/// Why a job has no picture.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// The pipeline refused the job or could not do its part.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// The worker that ran the job crashed, and none is left.
    #[error("the worker that ran this job crashed, and none is left")]
    Crashed,
    /// The pipeline panicked at this job, once with whatever stepped with it and once alone.
    #[error("the model crashed at this job twice: {0}")]
    CrashesModel(String),
    /// The job was not done by its deadline.
    #[error("the job was not done by its deadline")]
    TooLate,
    /// Idle work gave way: to jobs, to newer idle work, or as the scheduler takes nothing.
    #[error("the idle work gave way")]
    GaveWay,
    /// The scheduler stops and the job was not done in time.
    #[error("the server is shutting down")]
    ShuttingDown,
}
