//! What the event loop is told.

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
use crate::order::Done;
use crate::refusal::SubmitError;

/// Everything that can happen to the scheduler, besides the passing of time.
pub(crate) enum Event {
    /// New jobs, to be taken all or none.
    Submit { submissions: Vec<Submission>, options: JobOptions, reply: oneshot::Sender<Result<(), SubmitError>> },
    /// Work to be done when there is no other.
    SubmitIdle { submission: Submission, options: JobOptions },
    /// Whether such jobs would be taken now.
    Check { requests: Vec<(JobId, ImageRequest)>, options: JobOptions, reply: oneshot::Sender<Result<(), SubmitError>> },
    /// Nobody waits for the job any more.
    Cancel(JobId),
    /// A worker has its model, measured it, and is idle; so many bytes of its device are free.
    Loaded { worker: WorkerId, card: Arc<ModelCard>, estimator: Estimator, calibration: Calibration, free: Option<u64> },
    /// A worker did what it was told, in so much time.
    Turned { worker: WorkerId, done: Done, took: Duration },
    /// A worker's pipeline panicked or lost its device; the worker waits to be told to load its model again.
    Crashed { worker: WorkerId, reason: String },
    /// A worker's model did not load, or not to a pipeline that works; the worker waits to be told to try again.
    NotLoaded { worker: WorkerId, reason: String },
    /// A worker's thread ended.
    Lost { worker: WorkerId },
    /// Take nothing more, and say when all is done.
    Drain(oneshot::Sender<()>),
    /// Answer everything now.
    Abort,
}

/// A job on its way in.
pub(crate) struct Submission {
    pub(crate) id: JobId,
    pub(crate) request: Box<ImageRequest>,
    pub(crate) updates: mpsc::UnboundedSender<Update>,
    pub(crate) position: Arc<AtomicUsize>,
    /// What the spans of its stages belong to.
    pub(crate) span: Span,
}
