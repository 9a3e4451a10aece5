//! Events of the event loop.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use diffusion::{Estimator, ImageRequest, ModelCard};
use tokio::sync::{mpsc, oneshot};
use tracing::Span;

use crate::booked_job::{JobId, WorkerId};
use crate::calibration::Calibration;
use crate::config::JobOptions;
use crate::job::Update;
use crate::order::TurnResult;
use crate::refusal::SubmitError;

/// Everything that can happen to the scheduler, except the passing of time.
pub(crate) enum Event {
    /// New jobs, to be accepted all or none.
    Submit { submissions: Vec<Submission>, options: JobOptions, reply: oneshot::Sender<Result<(), SubmitError>> },
    /// New idle work.
    SubmitIdle { submission: Submission, options: JobOptions },
    /// Asks whether such jobs would be accepted now.
    Check { requests: Vec<(JobId, ImageRequest)>, options: JobOptions, reply: oneshot::Sender<Result<(), SubmitError>> },
    /// The client no longer waits for the job.
    Cancel(JobId),
    /// A worker has loaded and measured its model, and is idle. `free` is the free device memory in bytes.
    Loaded { worker: WorkerId, card: Arc<ModelCard>, estimator: Estimator, calibration: Calibration, free: Option<u64> },
    /// A worker finished its turn, which took `took`.
    Turned { worker: WorkerId, done: TurnResult, took: Duration },
    /// A worker's pipeline panicked or lost its device. The worker waits for the order to load its model again.
    Crashed { worker: WorkerId, reason: String },
    /// A worker's model did not load or did not pass its trial. The worker waits for the order to try again.
    NotLoaded { worker: WorkerId, reason: String },
    /// A worker's thread ended.
    Lost { worker: WorkerId },
    /// Accept no more jobs, and reply when all are done.
    Drain(oneshot::Sender<()>),
    /// Answer all jobs now.
    Abort,
}

/// A submitted job.
pub(crate) struct Submission {
    pub(crate) id: JobId,
    pub(crate) request: Box<ImageRequest>,
    pub(crate) updates: mpsc::UnboundedSender<Update>,
    pub(crate) position: Arc<AtomicUsize>,
    /// The parent span of the job's stages.
    pub(crate) span: Span,
}
