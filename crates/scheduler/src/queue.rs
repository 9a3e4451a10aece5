//! The queue: the contract between the server and the backend that generates the pictures.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use diffusion::ImageRequest;
use tokio::sync::watch;

use crate::config::JobOptions;
use crate::handle::Scheduler;
use crate::readiness::{Load, Readiness};
use crate::refusal::SubmitError;
use crate::ticket::Ticket;

/// A future of a [`Queue`].
pub type QueueFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Accepts jobs and answers them: the scheduler of this process, or a queue served by other machines.
///
/// A job is followed by its [`Ticket`], and cancelled when the ticket is dropped. The module `contract` (feature `test-util`) has the
/// tests that every implementation must pass.
pub trait Queue: fmt::Debug + Send + Sync {
    /// Queues all of `requests` together, or none, and returns one ticket per request, in their order. A caller that
    /// drops the future cancels the jobs.
    ///
    /// # Errors
    /// See [`SubmitError`].
    fn submit_all(
        &self,
        requests: Vec<ImageRequest>,
        options: JobOptions,
    ) -> QueueFuture<'_, Result<Vec<Ticket>, SubmitError>>;

    /// Runs a request when there is nothing else to do, and sets it aside when a job arrives.
    fn submit_idle(&self, request: ImageRequest, options: JobOptions) -> Ticket;

    /// Checks whether such requests would be accepted now.
    ///
    /// # Errors
    /// See [`SubmitError`].
    fn check(&self, requests: Vec<ImageRequest>, options: JobOptions) -> QueueFuture<'_, Result<(), SubmitError>>;

    /// Whether jobs are accepted, with the model's card once they are.
    fn readiness(&self) -> watch::Receiver<Readiness>;

    /// The number of queued and running jobs.
    fn load(&self) -> watch::Receiver<Load>;

    /// Accepts no more jobs and finishes those in hand. After `timeout` the rest is answered with
    /// [`JobError::ShuttingDown`](crate::JobError::ShuttingDown). Returns once every job is answered.
    fn drain(&self, timeout: Duration) -> QueueFuture<'_, ()>;
}

impl Queue for Scheduler {
    fn submit_all(
        &self,
        requests: Vec<ImageRequest>,
        options: JobOptions,
    ) -> QueueFuture<'_, Result<Vec<Ticket>, SubmitError>> {
        Box::pin(Scheduler::submit_all(self, requests, options))
    }

    fn submit_idle(&self, request: ImageRequest, options: JobOptions) -> Ticket {
        Scheduler::submit_idle(self, request, options)
    }

    fn check(&self, requests: Vec<ImageRequest>, options: JobOptions) -> QueueFuture<'_, Result<(), SubmitError>> {
        Box::pin(Scheduler::check(self, requests, options))
    }

    fn readiness(&self) -> watch::Receiver<Readiness> {
        Scheduler::readiness(self)
    }

    fn load(&self) -> watch::Receiver<Load> {
        Scheduler::load(self)
    }

    fn drain(&self, timeout: Duration) -> QueueFuture<'_, ()> {
        Box::pin(Scheduler::drain(self, timeout))
    }
}
