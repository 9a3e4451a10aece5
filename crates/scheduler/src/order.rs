//! Orders to a worker, and their results.

use std::sync::Arc;

use diffusion::{
    EncodingsUse, ImageRequest, Interrupt, PipelineError, PreviewMethod, RequestCost, RgbImage, StepReport,
};
use tracing::Span;

use crate::booked_job::JobId;

/// An order of the event loop to a worker.
pub(crate) enum Order {
    Turn(WorkerCommand),
    /// Drop the pipeline, if any, and load the model again.
    Load,
    /// Exit the thread.
    End,
}

/// One turn: the states to drop first, then the work to do until `interrupt` is set.
pub(crate) struct WorkerCommand {
    pub(crate) drop: Vec<JobId>,
    pub(crate) work: Option<Work>,
    pub(crate) interrupt: Interrupt,
}

pub(crate) enum Work {
    /// The span is the parent of the job's own spans.
    Encode(JobId, Arc<ImageRequest>, Span),
    Step(Vec<JobId>),
    Preview(JobId, PreviewMethod),
    /// The flag tells whether the latents are requested.
    Decode(JobId, bool),
    /// Pass a trial: generate a small picture.
    Trial,
}

/// What the pipeline reported of a job after encoding it.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    pub(crate) prompt_tokens: usize,
    pub(crate) encodings: EncodingsUse,
    /// Bytes that the pipeline keeps between requests.
    pub(crate) kept: u64,
    pub(crate) warnings: Vec<String>,
    /// The job's cost, estimated again at its start.
    pub(crate) cost: Option<Box<RequestCost>>,
}

/// A decoded picture, with its latents if requested.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) image: RgbImage,
    pub(crate) latents: Option<Vec<f32>>,
}

/// The result of a turn. States of a step or decoding that ran out of memory or was interrupted are held as they were
/// before it.
#[derive(Debug)]
pub(crate) enum TurnResult {
    Nothing,
    /// An encoding, with what the pipeline reported of the job.
    Encoded {
        id: JobId,
        result: Result<Prepared, PipelineError>,
    },
    /// One report per job, oldest job first.
    Stepped(Result<Vec<StepReport>, PipelineError>),
    Previewed {
        id: JobId,
        result: Result<RgbImage, PipelineError>,
    },
    Decoded {
        id: JobId,
        result: Result<Decoded, PipelineError>,
    },
    Tried(Result<(), PipelineError>),
}

impl TurnResult {
    /// The reason if the device is lost.
    pub(crate) fn device_lost(&self) -> Option<&PipelineError> {
        let failed = match self {
            TurnResult::Nothing => None,
            TurnResult::Encoded { result, .. } => result.as_ref().err(),
            TurnResult::Stepped(result) => result.as_ref().err(),
            TurnResult::Previewed { result, .. } => result.as_ref().err(),
            TurnResult::Decoded { result, .. } => result.as_ref().err(),
            TurnResult::Tried(result) => result.as_ref().err(),
        };
        failed.filter(|err| matches!(err, PipelineError::DeviceLost(_)))
    }
}
