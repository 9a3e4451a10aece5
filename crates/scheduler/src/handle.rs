//! The handle of a scheduler: starts it, submits jobs and stops it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use diffusion::{ImageRequest, Interrupt, Pipeline};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::Span;

use crate::booked_job::JobId;
use crate::calibration::MeasureOnce;
use crate::config::{JobOptions, SpawnOptions};
use crate::event::{Event, Submission};
use crate::interrupts::Interrupts;
use crate::readiness::{Load, Readiness};
use crate::refusal::SubmitError;
use crate::run::{EventLoop, Workers};
use crate::state::State;
use crate::ticket::{Place, Ticket};
use crate::worker;

/// A cheap handle to the scheduler. The event loop, and every worker with it, ends once the last handle and the last
/// ticket are dropped.
#[derive(Clone, Debug)]
pub struct Scheduler {
    events: mpsc::UnboundedSender<Event>,
    readiness: watch::Receiver<Readiness>,
    load: watch::Receiver<Load>,
    next_id: Arc<AtomicU64>,
}

impl Scheduler {
    /// Starts one worker thread per factory. A pipeline is created on the thread that uses it, so it need not be
    /// `Send`. Its factory loads and warms up the model, and is called again if the pipeline panics or the device fails
    /// several times in a row.
    ///
    /// # Panics
    /// If called outside a Tokio runtime, or if the system cannot create a thread.
    pub fn spawn<P, E, F>(options: impl Into<SpawnOptions>, factories: Vec<F>) -> Self
    where
        P: Pipeline + 'static,
        E: fmt::Display,
        F: Fn() -> Result<P, E> + Send + 'static,
    {
        let SpawnOptions { config, observer } = options.into();
        let (events, inbox) = mpsc::unbounded_channel();
        let (readiness_sender, readiness) = watch::channel(Readiness::Loading);
        let (load_sender, load) = watch::channel(Load::default());
        let state = State::new(config, factories.len());
        let shutdown = Interrupt::default();
        let interrupts = Interrupts::new(factories.len(), shutdown.clone());
        let workers = factories.into_iter().enumerate();
        let measure = MeasureOnce::new(config.calibration);
        let start = |(id, factory)| worker::spawn(id, factory, measure.clone(), shutdown.clone(), events.downgrade());
        let workers = Workers { inboxes: workers.map(start).collect(), interrupts };
        let event_loop = EventLoop::new(state, workers, observer, readiness_sender.clone(), load_sender);
        let event_loop = tokio::spawn(event_loop.run(inbox));
        tokio::spawn(async move {
            if let Err(err) = event_loop.await {
                tracing::error!(error = %err, "the scheduler's event loop ended");
                readiness_sender.send_replace(Readiness::Failed(format!("the scheduler's event loop ended: {err}")));
            }
        });
        Scheduler { events, readiness, load, next_id: Arc::default() }
    }

    /// Whether jobs are accepted, with the model's card once they are.
    pub fn readiness(&self) -> watch::Receiver<Readiness> {
        self.readiness.clone()
    }

    /// Returns once the event loop has ended while this handle exists: because of a bug, or because its runtime stops.
    /// No jobs are accepted from then on, and [`Scheduler::readiness`] reports the failure.
    pub async fn ended(&self) {
        self.events.closed().await;
    }

    /// The number of queued and running jobs.
    pub fn load(&self) -> watch::Receiver<Load> {
        self.load.clone()
    }

    /// Queues one job.
    ///
    /// # Errors
    /// See [`SubmitError`].
    pub async fn submit(&self, request: ImageRequest, options: JobOptions) -> Result<Ticket, SubmitError> {
        let mut tickets = self.submit_all(vec![request], options).await?;
        Ok(tickets.pop().expect("one ticket a request. This is a bug."))
    }

    /// Queues all of `requests` together, or none, and returns one ticket per request in their order. The spans of
    /// their stages are children of the caller's span.
    ///
    /// # Errors
    /// See [`SubmitError`].
    pub async fn submit_all(
        &self,
        requests: Vec<ImageRequest>,
        options: JobOptions,
    ) -> Result<Vec<Ticket>, SubmitError> {
        // The tickets exist before the jobs are accepted: if this future is dropped while it waits for the reply, they
        // cancel their jobs.
        let (submissions, tickets) = requests.into_iter().map(|request| self.ticket(request)).unzip();
        let (reply, accepted) = oneshot::channel();
        let submitted = self.events.send(Event::Submit { submissions, options, reply });
        submitted.map_err(|_| self.gone())?;
        accepted.await.map_err(|_| self.gone())??;
        Ok(tickets)
    }

    /// Runs a request when a worker has nothing else to do, one at a time, and sets it aside as soon as a job arrives.
    /// It is counted nowhere. It is given up with [`JobError::GaveWay`](crate::JobError::GaveWay) if there is too much
    /// such work or no memory for it, or if no jobs are accepted. Of the options only [`JobOptions::latents`] applies,
    /// and its only update is the answer.
    pub fn submit_idle(&self, request: ImageRequest, options: JobOptions) -> Ticket {
        let (submission, ticket) = self.ticket(request);
        let _ = self.events.send(Event::SubmitIdle { submission, options });
        ticket
    }

    /// Checks whether such requests would be accepted now, for a caller whose inputs are expensive to get.
    ///
    /// # Errors
    /// See [`SubmitError`].
    pub async fn check(&self, requests: Vec<ImageRequest>, options: JobOptions) -> Result<(), SubmitError> {
        let requests = requests.into_iter().map(|request| (self.next_id(), request)).collect();
        let (reply, checked) = oneshot::channel();
        self.events.send(Event::Check { requests, options, reply }).map_err(|_| self.gone())?;
        checked.await.map_err(|_| self.gone())?
    }

    /// Accepts no more jobs and finishes those in hand. After `timeout` the rest is interrupted and answered with
    /// [`JobError::ShuttingDown`](crate::JobError::ShuttingDown). Returns once every job is answered.
    pub async fn drain(&self, timeout: Duration) {
        let (drained, mut done) = oneshot::channel();
        if self.events.send(Event::Drain(drained)).is_err() {
            return;
        }
        if tokio::time::timeout(timeout, &mut done).await.is_err() && self.events.send(Event::Abort).is_ok() {
            let _ = done.await;
        }
    }

    /// The reason to refuse jobs after the event loop has ended.
    fn gone(&self) -> SubmitError {
        match &*self.readiness.borrow() {
            Readiness::Failed(reason) => SubmitError::Failed(reason.clone()),
            _ => SubmitError::ShuttingDown,
        }
    }

    fn next_id(&self) -> JobId {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    fn ticket(&self, request: ImageRequest) -> (Submission, Ticket) {
        let id = self.next_id();
        let (sender, updates) = mpsc::unbounded_channel();
        let place = Place::default();
        let position = place.0.clone();
        let events = self.events.clone();
        let ticket = Ticket::new(updates, place, move || _ = events.send(Event::Cancel(id)));
        let span = Span::current();
        (Submission { id, request: Box::new(request), updates: sender, position, span }, ticket)
    }
}
