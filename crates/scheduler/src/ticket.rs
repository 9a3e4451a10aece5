//! A submitted job, from the outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use crate::booked_job::JobId;
use crate::event::Event;
use crate::job::{JobError, Outcome, Update};

/// The position of a job that is not in line.
pub(crate) const NOT_WAITING: usize = usize::MAX;

/// A submitted job. Dropping it cancels the job, wherever it is.
#[derive(Debug)]
pub struct Ticket {
    pub(crate) id: JobId,
    /// Unbounded, yet never more than two updates a step.
    pub(crate) updates: mpsc::UnboundedReceiver<Update>,
    pub(crate) events: mpsc::UnboundedSender<Event>,
    /// The event loop keeps it current.
    pub(crate) position: Arc<AtomicUsize>,
    pub(crate) answered: bool,
}

/// Where a job stands in line; a cheap clone.
#[derive(Clone, Debug)]
pub struct Place(Arc<AtomicUsize>);

impl Place {
    /// Jobs that are before it in line; `None` once a worker took it up.
    pub fn position(&self) -> Option<usize> {
        let position = self.0.load(Ordering::Relaxed);
        (position != NOT_WAITING).then_some(position)
    }
}

impl Ticket {
    /// The next news of the job; `None` once its answer was given.
    pub async fn next(&mut self) -> Option<Update> {
        if self.answered {
            return None;
        }
        // The event loop is gone before the job was answered only when its runtime stops.
        let update = self.updates.recv().await.unwrap_or(Update::Done(Err(JobError::ShuttingDown)));
        self.answered = matches!(update, Update::Done(_));
        Some(update)
    }

    /// Jobs that are before it in line; `None` once a worker took it up.
    pub fn position(&self) -> Option<usize> {
        self.place().position()
    }

    /// Where the job stands in line, for whoever does not hold its ticket.
    pub fn place(&self) -> Place {
        Place(self.position.clone())
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

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.answered {
            let _ = self.events.send(Event::Cancel(self.id));
        }
    }
}
