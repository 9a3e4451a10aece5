//! What a worker does next.

use crate::booked_job::JobId;

/// One turn of one worker: what to drop first, then what to do.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Assignment {
    pub(crate) drop: Vec<JobId>,
    pub(crate) turn: Option<Turn>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Turn {
    Encode(JobId),
    Step(Vec<JobId>),
    Preview(JobId),
    Decode(JobId),
}
