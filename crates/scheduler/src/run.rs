//! The event loop: the only place that owns both the books and the channels.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc as std_mpsc};
use std::time::Duration;

use diffusion::{Estimator, ImageRequest, ModelCard, PipelineError, RgbImage};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::Span;

use crate::booked_job::{Job, JobId, WorkerId};
use crate::config::JobOptions;
use crate::event::{Event, Submission};
use crate::interrupts::Interrupts;
use crate::job::{JobError, Outcome, Update};
use crate::lane::LaneStatus;
use crate::observer::{Observation, Observer};
use crate::order::{Order, TurnResult, Work, WorkerCommand};
use crate::policy;
use crate::readiness::{Load, Readiness};
use crate::refusal::SubmitError;
use crate::state::State;
use crate::ticket::NOT_WAITING;
use crate::turn::Turn;
use crate::unanswered::Unanswered;

mod faults;
mod handle;
mod idle;

/// The channels to the workers.
pub(crate) struct Workers {
    /// One inbox per worker.
    pub(crate) inboxes: Vec<std_mpsc::Sender<Order>>,
    pub(crate) interrupts: Interrupts,
}

pub(crate) struct EventLoop {
    state: State,
    workers: Workers,
    observer: Option<Observer>,
    jobs: HashMap<JobId, Unanswered>,
    /// Unanswered idle work.
    idle: HashMap<JobId, Unanswered>,
    card: Option<Arc<ModelCard>>,
    /// Set once `card` is set.
    estimator: Option<Estimator>,
    /// Why the last worker was lost.
    lost: String,
    /// Channels of those who wait for the end of the drain; `None` while jobs are accepted.
    draining: Option<Vec<oneshot::Sender<()>>>,
    readiness: watch::Sender<Readiness>,
    load: watch::Sender<Load>,
    /// Tokio's clock rather than the system's, so that tests can pause it.
    started: Instant,
}

impl EventLoop {
    pub(crate) fn new(
        state: State,
        workers: Workers,
        observer: Option<Observer>,
        readiness: watch::Sender<Readiness>,
        load: watch::Sender<Load>,
    ) -> Self {
        EventLoop {
            state,
            workers,
            observer,
            jobs: HashMap::new(),
            idle: HashMap::new(),
            card: None,
            estimator: None,
            lost: "none was started".into(),
            draining: None,
            readiness,
            load,
            started: Instant::now(),
        }
    }

    /// Runs until every handle and ticket is dropped. The workers' inboxes close with it, and their turns are
    /// interrupted.
    pub(crate) async fn run(mut self, mut events: mpsc::UnboundedReceiver<Event>) {
        loop {
            let alarm = self.state.next_alarm(self.now()).and_then(|alarm| self.started.checked_add(alarm));
            let event = match alarm {
                Some(alarm) => tokio::time::timeout_at(alarm, events.recv()).await,
                None => Ok(events.recv().await),
            };
            self.state.advance(self.now());
            match event {
                Ok(Some(event)) => self.handle(event),
                Ok(None) => return,
                Err(_) => {}
            }
            self.expire();
            self.interrupt();
            self.mend();
            self.dispatch();
            self.preempt();
            self.publish();
        }
    }

    fn submit(&mut self, submissions: Vec<Submission>, options: JobOptions) -> Result<(), SubmitError> {
        let jobs = self.entries(submissions.iter().map(|s| (s.id, &*s.request)), options)?;
        let arrived = self.now();
        self.state.submit(jobs)?;
        let line = self.state.line(arrived);
        for submission in submissions {
            let id = submission.id;
            let first_position = line.iter().position(|other| *other == id).unwrap_or_default();
            self.jobs.insert(id, Unanswered::new(submission, options.latents, first_position, arrived));
        }
        Ok(())
    }

    /// Returns the book entries of these requests, if they arrived now.
    fn entries<'r>(
        &self,
        requests: impl Iterator<Item = (JobId, &'r ImageRequest)>,
        options: JobOptions,
    ) -> Result<Vec<Job>, SubmitError> {
        match self.now_ready() {
            Readiness::Ready(_) => {}
            Readiness::Loading => return Err(SubmitError::Loading),
            Readiness::Failed(reason) => return Err(SubmitError::Failed(reason)),
            Readiness::Draining => return Err(SubmitError::ShuttingDown),
        }
        let arrived = self.now();
        let estimator = self.estimator.as_ref().expect("a ready worker left one. This is a bug.");
        Ok(requests.map(|(id, request)| Job::new(id, estimator(request), options, arrived)).collect())
    }

    /// Records the result of a turn for `jobs`. A job that was cancelled meanwhile is found neither here nor in the
    /// books, and its part of the result is dropped.
    fn turned(&mut self, worker: WorkerId, done: TurnResult, jobs: &[Job], took: Duration) {
        match done {
            TurnResult::Nothing => {}
            TurnResult::Encoded { id, result: Ok(prepared) } => {
                self.state.encoded(id, prepared.encodings.work, took);
                if let Some(cost) = &prepared.cost {
                    self.state.prepared(id, **cost);
                }
                self.state.lanes[worker].kept = prepared.kept;
                if let Some(job) = self.jobs.get_mut(&id) {
                    job.prepared = prepared;
                    job.timings.encode = took;
                }
            }
            TurnResult::Stepped(Ok(reports)) => {
                self.state.stepped(jobs, &reports, took);
                self.state.went_well(worker, false);
                for (job, report) in jobs.iter().zip(reports) {
                    if let Some(job) = self.jobs.get_mut(&job.id) {
                        job.timings.denoise += took;
                        job.steps.push(report.clone());
                        let _ = job.updates.send(Update::Stepped(report));
                    }
                }
            }
            TurnResult::Previewed { id, result } => self.previewed(worker, id, result, took),
            TurnResult::Decoded { id, result: Ok(decoded) } => {
                self.state.decoded(id, took);
                self.state.went_well(worker, true);
                if let Some(job) = self.jobs.get_mut(&id) {
                    let generated = job.generated(decoded, took);
                    self.answer(id, Ok(generated));
                }
            }
            TurnResult::Tried(Ok(())) => self.state.lanes[worker].health.fit(),
            TurnResult::Tried(Err(err)) => {
                let next = self.state.lanes[worker].health.broke(self.state.config.backoff);
                tracing::error!(worker, error = %err, ?next, "the pipeline failed its trial");
                self.broke(worker, next, err.to_string());
            }
            TurnResult::Encoded { result: Err(err), .. }
            | TurnResult::Decoded { result: Err(err), .. }
            | TurnResult::Stepped(Err(err)) => self.failed(worker, jobs, err),
        }
    }

    /// Sends a preview. A failed preview is omitted, because nothing depends on it.
    fn previewed(&mut self, worker: WorkerId, id: JobId, result: Result<RgbImage, PipelineError>, took: Duration) {
        self.state.previewed(id, result.is_ok().then_some(took));
        match result {
            Ok(image) => {
                if let Some(job) = self.jobs.get_mut(&id) {
                    let index = job.previews_drawn;
                    job.previews_drawn += 1;
                    let _ = job.updates.send(Update::Preview { index, image });
                }
            }
            Err(PipelineError::Interrupted) => {}
            Err(err) => {
                tracing::warn!(id, error = %err, "a preview is left out");
                if let PipelineError::Model(_) = err {
                    let now = self.now();
                    self.state.lanes[worker].health.failed(now, self.state.config.backoff);
                }
            }
        }
    }

    /// Fails a job whose state its worker may still hold.
    fn give_up(&mut self, id: JobId, err: JobError) {
        tracing::debug!(id, error = %err, "the job failed");
        self.state.cancel(id);
        self.answer(id, Err(err));
    }

    /// Answers the jobs whose deadline has passed.
    fn expire(&mut self) {
        for id in self.state.expired(self.now()) {
            self.give_up(id, JobError::TooLate);
        }
    }

    /// Interrupts the turns that no client waits for any more.
    fn interrupt(&mut self) {
        let now = self.now();
        for worker in self.state.abandoned() {
            self.workers.interrupts.set(worker, now);
        }
    }

    /// Answers a job and forgets it. This is the only place where jobs are answered.
    fn answer(&mut self, id: JobId, outcome: Outcome) {
        self.state.ended(id);
        if let Some(job) = self.jobs.remove(&id) {
            let total = self.now().saturating_sub(job.arrived);
            self.observe(&Observation::Answered { outcome: &outcome, total });
            let _ = job.updates.send(Update::Done(outcome));
        }
    }

    /// Gives every idle worker its next turn.
    fn dispatch(&mut self) {
        let mut assignments = policy::assign(&self.state, self.now());
        let gone = self.state.make_room(&mut assignments);
        gone.into_iter().for_each(|id| self.answer_idle(id, Err(JobError::GaveWay)));
        self.state.assigned(&assignments);
        for (worker, assignment) in assignments {
            let work = assignment.turn.map(|turn| match turn {
                Turn::Encode(id) => self.take_up(id),
                Turn::Step(ids) => Work::Step(ids),
                Turn::Preview(id) => Work::Preview(id, self.state.preview_method(id)),
                Turn::Decode(id) => Work::Decode(id, self.jobs.get(&id).is_some_and(|job| job.wants_latents)),
            });
            self.order(worker, assignment.drop, work);
        }
        self.dispatch_idle();
    }

    /// Sends a worker its next turn. A worker whose thread has ended reports that itself.
    fn order(&mut self, worker: WorkerId, drop: Vec<JobId>, work: Option<Work>) {
        let interrupt = self.workers.interrupts.begin(worker);
        let _ = self.workers.inboxes[worker].send(Order::Turn(WorkerCommand { drop, work, interrupt }));
    }

    fn take_up(&mut self, id: JobId) -> Work {
        let now = self.now();
        let job = self.jobs.get_mut(&id).expect("a waiting job is unanswered. This is a bug.");
        job.timings.queue = now.saturating_sub(job.arrived);
        let queued = job.timings.queue;
        let _ = job.updates.send(Update::Started { queued });
        job.position.store(NOT_WAITING, Ordering::Relaxed);
        job.queue_span = Span::none();
        let work = Work::Encode(id, job.request.clone(), job.span.clone());
        self.observe(&Observation::Started { queued });
        work
    }

    fn observe(&self, observation: &Observation<'_>) {
        if let Some(observer) = &self.observer {
            observer(observation);
        }
    }

    /// Reports a successful turn to the observer.
    fn observe_turn(&self, worker: WorkerId, done: &TurnResult, jobs: &[Job], took: Duration) {
        match done {
            TurnResult::Encoded { result: Ok(prepared), .. } => {
                self.observe(&Observation::Encoded { worker, took, encodings: prepared.encodings });
            }
            TurnResult::Stepped(Ok(reports)) => {
                let tokens = jobs.iter().map(|job| job.cost.tokens * job.cost.passes).sum();
                self.observe(&Observation::Stepped { batch: jobs.len(), tokens, took, reports });
            }
            TurnResult::Previewed { result: Ok(_), .. } => self.observe(&Observation::Previewed { took }),
            TurnResult::Decoded { result: Ok(_), .. } => self.observe(&Observation::Decoded { took }),
            _ => {}
        }
    }

    /// Publishes what changed to all watchers.
    fn publish(&mut self) {
        if self.jobs.is_empty()
            && let Some(waiters) = &mut self.draining
        {
            for drained in waiters.drain(..) {
                let _ = drained.send(());
            }
        }
        let (readiness, load) = (self.now_ready(), self.state.load());
        self.readiness.send_if_modified(|shown| std::mem::replace(shown, readiness.clone()) != readiness);
        self.load.send_if_modified(|shown| std::mem::replace(shown, load) != load);
        for (position, id) in self.state.line(self.now()).iter().enumerate() {
            if let Some(job) = self.jobs.get(id) {
                job.position.store(position, Ordering::Relaxed);
            }
        }
        let Load { waiting, running } = load;
        let (busy_workers, predicted_drain) = (self.state.busy_workers(), self.state.predicted_drain());
        self.observe(&Observation::Load { waiting, running, busy_workers, predicted_drain });
    }

    /// Time since the start, the only clock of the books.
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn now_ready(&self) -> Readiness {
        let any = |statuses: &[LaneStatus]| self.state.lanes.iter().any(|lane| statuses.contains(&lane.status));
        match &self.card {
            _ if self.draining.is_some() => Readiness::Draining,
            Some(card) if any(&[LaneStatus::Idle, LaneStatus::Busy]) => Readiness::Ready(card.clone()),
            _ if self.state.lanes.iter().all(|lane| lane.status == LaneStatus::Lost) => {
                Readiness::Failed(self.lost.clone())
            }
            _ => Readiness::Loading,
        }
    }
}
