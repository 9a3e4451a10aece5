//! What a worker is told, and what comes of it.

use std::sync::Arc;

use diffusion::{
    EncodingsUse, ImageRequest, Interrupt, PipelineError, PreviewMethod, RequestCost, RgbImage, StepReport,
};
use tracing::Span;

use crate::booked_job::JobId;

/// What the event loop tells a worker.
pub(crate) enum Order {
    Turn(Command),
    /// Drop the pipeline, if there is one, and load the model again.
    Load,
    /// End.
    End,
}

/// One turn: what to drop first, then what to do until `interrupt` is set.
pub(crate) struct Command {
    pub(crate) drop: Vec<JobId>,
    pub(crate) work: Option<Work>,
    pub(crate) interrupt: Interrupt,
}

pub(crate) enum Work {
    /// The span is what the job's own spans belong to.
    Encode(JobId, Arc<ImageRequest>, Span),
    Step(Vec<JobId>),
    Preview(JobId, PreviewMethod),
    /// And whether the latents are wanted.
    Decode(JobId, bool),
    /// Show that the pipeline can make a picture.
    Trial,
}

/// What the pipeline said of a job when it encoded it.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    pub(crate) prompt_tokens: usize,
    pub(crate) encodings: EncodingsUse,
    /// Bytes that the pipeline keeps whatever it runs.
    pub(crate) kept: u64,
    pub(crate) warnings: Vec<String>,
    /// What the job takes, as things stand now that it is begun.
    pub(crate) cost: Option<Box<RequestCost>>,
}

/// A picture, and what it was decoded from, if that was asked for.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) image: RgbImage,
    pub(crate) latents: Option<Vec<f32>>,
}

/// What came of a turn. What ran out of memory in a step or a decoding, or was interrupted in it, is held as it was
/// before.
#[derive(Debug)]
pub(crate) enum Done {
    Nothing,
    /// The tokens of the prompts.
    Encoded {
        id: JobId,
        result: Result<Prepared, PipelineError>,
    },
    /// One report a job, oldest job first.
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

impl Done {
    /// Why the device is lost, if it is.
    pub(crate) fn device_lost(&self) -> Option<&PipelineError> {
        let failed = match self {
            Done::Nothing => None,
            Done::Encoded { result, .. } => result.as_ref().err(),
            Done::Stepped(result) => result.as_ref().err(),
            Done::Previewed { result, .. } => result.as_ref().err(),
            Done::Decoded { result, .. } => result.as_ref().err(),
            Done::Tried(result) => result.as_ref().err(),
        };
        failed.filter(|err| matches!(err, PipelineError::DeviceLost(_)))
    }
}
