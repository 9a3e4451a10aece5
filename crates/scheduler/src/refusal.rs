//! Reasons to refuse a job.

use std::time::Duration;

/// The reason why a job was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The model is still loading.
    #[error("the model is loading")]
    Loading,
    /// Too many jobs are queued already.
    #[error("the queue is full: {waiting} jobs are waiting")]
    QueueFull {
        /// Queued jobs.
        waiting: usize,
        /// Time until there is a place in the queue.
        place_in: Duration,
    },
    /// The job would meet its deadline without the jobs ahead of it.
    #[error(
        "the job would be done in about {predicted:.1?}, {:.1?} of it waiting for others, and is needed within \
         {deadline:.1?}",
        predicted.saturating_sub(*alone)
    )]
    TooLate {
        /// Predicted time from submission to completion.
        predicted: Duration,
        /// Predicted time with no other job in hand.
        alone: Duration,
        /// The deadline relative to submission: the job's own or the scheduler's.
        deadline: Duration,
    },
    /// The job would miss its deadline even with no other job in hand.
    #[error("the job takes about {predicted:.1?}, with no wait for others, and is needed within {deadline:.1?}")]
    NeverInTime {
        /// Predicted time with no other job in hand.
        predicted: Duration,
        /// The deadline relative to submission: the job's own or the scheduler's.
        deadline: Duration,
    },
    /// The job alone needs more device memory than a worker may use.
    #[error("the job needs {bytes} bytes of device memory, and at most {budget} may be held")]
    TooLarge {
        /// The estimated bytes that the job holds.
        bytes: u64,
        /// The memory bound in bytes.
        budget: u64,
    },
    /// The scheduler is draining or gone.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// No worker is left; the reason.
    #[error("no worker is left: {0}")]
    Failed(String),
}
