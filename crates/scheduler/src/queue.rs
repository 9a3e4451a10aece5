//! Where a front end puts its jobs: the contract between the server and whatever makes the pictures.

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

/// Takes jobs and answers them: the scheduler of this process, or a queue that other machines serve.
///
/// A job is watched by its [`Ticket`], and cancelled when the ticket is dropped. [`contract`](crate::contract) holds
/// what every implementation keeps.
pub trait Queue: fmt::Debug + Send + Sync {
    /// Puts all of `requests` in line together, or none, and returns one ticket a request, in their order. A caller that
    /// drops the future cancels the jobs.
    ///
    /// # Errors
    /// See [`SubmitError`].
    fn submit_all(
        &self,
        requests: Vec<ImageRequest>,
        options: JobOptions,
    ) -> QueueFuture<'_, Result<Vec<Ticket>, SubmitError>>;

    /// Runs a request when nothing else is to be done, and sets it aside when a job arrives.
    fn submit_idle(&self, request: ImageRequest, options: JobOptions) -> Ticket;

    /// Returns whether such requests would be taken now.
    ///
    /// # Errors
    /// See [`SubmitError`].
    fn check(&self, requests: Vec<ImageRequest>, options: JobOptions) -> QueueFuture<'_, Result<(), SubmitError>>;

    /// Whether jobs are taken, and the model's card once they are.
    fn readiness(&self) -> watch::Receiver<Readiness>;

    /// How many jobs wait and run.
    fn load(&self) -> watch::Receiver<Load>;

    /// Takes no more jobs, finishes those that were taken, and answers what is left after `timeout` with
    /// [`JobError::ShuttingDown`](crate::JobError::ShuttingDown). Returns when every job is answered.
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
