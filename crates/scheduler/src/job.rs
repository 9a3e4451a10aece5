//! Updates on the progress of a job, and its one answer at the end.

use std::time::Duration;

use diffusion::{PipelineError, RgbImage, StepReport};

/// The answer of a job; every job gets exactly one.
pub type Outcome = Result<Generated, JobError>;

/// A finished picture and a record of its generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// The picture, of the requested size.
    pub image: RgbImage,
    /// Text-encoder tokens of the prompts.
    pub prompt_tokens: usize,
    /// Warnings for the client, as sentences.
    pub warnings: Vec<String>,
    /// The time of each stage.
    pub timings: Timings,
    /// Jobs ahead of it in the queue at submission.
    pub position: usize,
    /// One report per denoising step.
    pub steps: Vec<StepReport>,
    /// The latents that the picture was decoded from, as of [`Pipeline::latents`](diffusion::Pipeline::latents), if
    /// requested and available.
    pub latents: Option<Vec<f32>>,
}

/// The time of each stage of a job. The rest of the total was spent waiting for turns of other jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// From submission until a worker started the job.
    pub queue: Duration,
    /// Encoding the prompts and pictures and drawing the noise.
    pub encode: Duration,
    /// The denoising steps. Each counts in full, however many jobs shared it.
    pub denoise: Duration,
    /// Decoding the latents to pixels.
    pub decode: Duration,
}

/// An update on a job.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// A worker started the job.
    Started {
        /// Time in the queue.
        queued: Duration,
    },
    /// A step is done.
    Stepped(StepReport),
    /// The worker failed, or had no memory for the job beside others. The job is queued again and runs from its start,
    /// to the same picture. The steps reported so far are void and will be reported again; previews will not be
    /// repeated.
    Restarted,
    /// A preview of the picture, from the estimate of the last step.
    Preview {
        /// Index of the preview within the job, from 0.
        index: usize,
        /// The preview, of the requested size.
        image: RgbImage,
    },
    /// The answer; no update follows it.
    Done(Outcome),
}

/// The reason why a job failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// The pipeline rejected the job or failed.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// The job's worker crashed, and no worker is left.
    #[error("the worker that ran this job crashed, and none is left")]
    Crashed,
    /// The pipeline panicked twice at this job: once with the other jobs of a step and once alone.
    #[error("the model crashed at this job twice: {0}")]
    CrashesModel(String),
    /// The job was not done by its deadline.
    #[error("the job was not done by its deadline")]
    TooLate,
    /// The idle work was dropped for jobs or for newer idle work, or because the scheduler accepts no more.
    #[error("the idle work gave way")]
    GaveWay,
    /// The scheduler stopped before the job was done.
    #[error("the server is shutting down")]
    ShuttingDown,
}
