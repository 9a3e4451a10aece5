//! Why a job is not taken.

use std::time::Duration;

/// Why a job was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The model is not there yet.
    #[error("the model is loading")]
    Loading,
    /// Too many jobs wait already.
    #[error("the queue is full: {waiting} jobs are waiting")]
    QueueFull {
        /// Jobs in line.
        waiting: usize,
        /// How long until there is a place in line.
        place_in: Duration,
    },
    /// The job would be done in time, were there not others to be done before it.
    #[error(
        "the job would be done in about {predicted:.1?}, {:.1?} of it waiting for others, and is needed within \
         {deadline:.1?}",
        predicted.saturating_sub(*alone)
    )]
    TooLate {
        /// How long after its submission it would be done.
        predicted: Duration,
        /// How long it would take with nothing else to do.
        alone: Duration,
        /// How soon it is needed: its own deadline or the scheduler's.
        deadline: Duration,
    },
    /// The job would not be done in time even with nothing else to do.
    #[error("the job takes about {predicted:.1?}, with no wait for others, and is needed within {deadline:.1?}")]
    NeverInTime {
        /// How long it would take with nothing else to do.
        predicted: Duration,
        /// How soon it is needed: its own deadline or the scheduler's.
        deadline: Duration,
    },
    /// The job alone needs more device memory than a worker may hold.
    #[error("the job needs {bytes} bytes of device memory, and at most {budget} may be held")]
    TooLarge {
        /// The estimate of what it holds.
        bytes: u64,
        /// The scheduler's bound.
        budget: u64,
    },
    /// The scheduler drains or is gone.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// No worker is left, for this reason.
    #[error("no worker is left: {0}")]
    Failed(String),
}
