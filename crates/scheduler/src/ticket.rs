//! The ticket of a submitted job.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use crate::job::{JobError, Outcome, Update};

/// The position of a job that is not queued.
pub(crate) const NOT_WAITING: usize = usize::MAX;

/// A submitted job. Dropping the ticket cancels the job at any stage.
pub struct Ticket {
    /// Unbounded, but never more than two updates per step.
    pub(crate) updates: mpsc::UnboundedReceiver<Update>,
    place: Place,
    /// Cancels the job; `None` once its answer was given.
    cancel: Option<Box<dyn FnOnce() + Send>>,
}

/// A job's place in the queue; cheap to clone.
#[derive(Clone, Debug)]
pub struct Place(pub(crate) Arc<AtomicUsize>);

impl Default for Place {
    /// The place of a job that is not queued yet.
    fn default() -> Self {
        Place(Arc::new(AtomicUsize::new(NOT_WAITING)))
    }
}

impl Place {
    /// Number of jobs ahead of it in the queue; `None` once a worker has started it.
    pub fn position(&self) -> Option<usize> {
        let position = self.0.load(Ordering::Relaxed);
        (position != NOT_WAITING).then_some(position)
    }

    /// Sets the job's position in the queue; `None` if it is not queued.
    pub fn set(&self, position: Option<usize>) {
        self.0.store(position.unwrap_or(NOT_WAITING), Ordering::Relaxed);
    }
}

impl Ticket {
    /// Creates a ticket for a job whose updates arrive by `updates`; the last is its answer. `cancel` is called if the
    /// ticket is dropped before that.
    pub fn new(updates: mpsc::UnboundedReceiver<Update>, place: Place, cancel: impl FnOnce() + Send + 'static) -> Self {
        Ticket { updates, place, cancel: Some(Box::new(cancel)) }
    }

    /// The next update of the job; `None` after its answer.
    pub async fn next(&mut self) -> Option<Update> {
        self.cancel.as_ref()?;
        // The sender is dropped before the answer only if its runtime stops.
        let update = self.updates.recv().await.unwrap_or(Update::Done(Err(JobError::ShuttingDown)));
        if matches!(update, Update::Done(_)) {
            self.cancel = None;
        }
        Some(update)
    }

    /// Number of jobs ahead of it in the queue; `None` once a worker has started it.
    pub fn position(&self) -> Option<usize> {
        self.place.position()
    }

    /// The job's place in the queue, for a caller that does not hold the ticket.
    pub fn place(&self) -> Place {
        self.place.clone()
    }

    /// Waits for the job's answer.
    pub async fn finished(mut self) -> Outcome {
        loop {
            if let Some(Update::Done(outcome)) = self.next().await {
                return outcome;
            }
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("place", &self.place).field("answered", &self.cancel.is_none()).finish()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(cancel) = self.cancel.take() {
            cancel();
        }
    }
}
