//! A submitted job, from the outside.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use crate::job::{JobError, Outcome, Update};

/// The position of a job that is not in line.
pub(crate) const NOT_WAITING: usize = usize::MAX;

/// A submitted job. Dropping it cancels the job, wherever it is.
pub struct Ticket {
    /// Unbounded, yet never more than two updates a step.
    pub(crate) updates: mpsc::UnboundedReceiver<Update>,
    place: Place,
    /// Cancels the job; `None` once its answer was given.
    cancel: Option<Box<dyn FnOnce() + Send>>,
}

/// Where a job stands in line; a cheap clone.
#[derive(Clone, Debug)]
pub struct Place(pub(crate) Arc<AtomicUsize>);

impl Default for Place {
    /// The place of a job that is not in line yet.
    fn default() -> Self {
        Place(Arc::new(AtomicUsize::new(NOT_WAITING)))
    }
}

impl Place {
    /// Jobs that are before it in line; `None` once a worker took it up.
    pub fn position(&self) -> Option<usize> {
        let position = self.0.load(Ordering::Relaxed);
        (position != NOT_WAITING).then_some(position)
    }

    /// Moves the job in line, or out of it.
    pub fn set(&self, position: Option<usize>) {
        self.0.store(position.unwrap_or(NOT_WAITING), Ordering::Relaxed);
    }
}

impl Ticket {
    /// A ticket for a job whose updates arrive by `updates`, the last of which is its answer. `cancel` is called when the
    /// ticket is dropped before that.
    pub fn new(updates: mpsc::UnboundedReceiver<Update>, place: Place, cancel: impl FnOnce() + Send + 'static) -> Self {
        Ticket { updates, place, cancel: Some(Box::new(cancel)) }
    }

    /// The next news of the job; `None` once its answer was given.
    pub async fn next(&mut self) -> Option<Update> {
        self.cancel.as_ref()?;
        // The sender is gone before the job was answered only when its runtime stops.
        let update = self.updates.recv().await.unwrap_or(Update::Done(Err(JobError::ShuttingDown)));
        if matches!(update, Update::Done(_)) {
            self.cancel = None;
        }
        Some(update)
    }

    /// Jobs that are before it in line; `None` once a worker took it up.
    pub fn position(&self) -> Option<usize> {
        self.place.position()
    }

    /// Where the job stands in line, for a caller that does not hold its ticket.
    pub fn place(&self) -> Place {
        self.place.clone()
    }

    /// The job's answer.
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
