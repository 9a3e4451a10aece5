//! What a worker does next.

use crate::booked_job::JobId;

/// One turn of one worker: the states to drop first, then the work.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Assignment {
    pub(crate) drop: Vec<JobId>,
    pub(crate) turn: Option<Turn>,
}

/// What a worker does in one turn.
#[derive(Clone, Debug, PartialEq)]
pub enum Turn {
    /// Encodes a job's prompt and pictures.
    Encode(JobId),
    /// Takes one denoising step of these jobs together.
    Step(Vec<JobId>),
    /// Draws a job's preview.
    Preview(JobId),
    /// Decodes a job's latents to its picture.
    Decode(JobId),
}
