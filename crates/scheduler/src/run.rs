//! The event loop: the only place that owns both the books and the channels.

use std::collections::HashMap;
use std::sync::{Arc, mpsc as std_mpsc};
use std::time::Duration;

use diffusion::{ImageRequest, ModelCard, PipelineError, StepReport};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::handle::SubmitError;
use crate::job::{Generated, JobError, Outcome, Timings, Update};
use crate::policy::{self, Turn};
use crate::readiness::{Load, Readiness};
use crate::state::{Job, JobId, LaneStatus, State, WorkerId};
use crate::worker::{Command, Done, Prepared, Work};

/// Everything that can happen to the scheduler.
#[derive(Debug)]
pub(crate) enum Event {
    /// New jobs, to be taken all or none.
    Submit { submissions: Vec<Submission>, reply: oneshot::Sender<Result<(), SubmitError>> },
    /// Nobody waits for the job any more.
    Cancel(JobId),
    /// A worker has its model and is idle.
    Loaded { worker: WorkerId, card: ModelCard },
    /// A worker did what it was told, in so much time.
    Turned { worker: WorkerId, done: Done, took: Duration },
    /// A worker's pipeline panicked; the worker loads its model again.
    Crashed { worker: WorkerId, reason: String },
    /// A worker's thread ended.
    Lost { worker: WorkerId, reason: String },
    /// Take nothing more, and say when all is done.
    Drain(oneshot::Sender<()>),
    /// Answer everything now.
    Abort,
}

/// A job on its way in.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) id: JobId,
    pub(crate) request: Box<ImageRequest>,
    pub(crate) updates: mpsc::UnboundedSender<Update>,
}

/// A job that was taken and not answered.
struct Unanswered {
    /// Until a worker is told to encode it.
    request: Option<Box<ImageRequest>>,
    updates: mpsc::UnboundedSender<Update>,
    arrived: Duration,
    timings: Timings,
    prepared: Prepared,
    steps: Vec<StepReport>,
}

pub(crate) struct EventLoop {
    state: State,
    workers: Vec<std_mpsc::Sender<Command>>,
    jobs: HashMap<JobId, Unanswered>,
    card: Option<Arc<ModelCard>>,
    /// Why the last worker was lost.
    lost: String,
    /// Who waits for the end of the draining; `None` while jobs are taken.
    draining: Option<Vec<oneshot::Sender<()>>>,
    readiness: watch::Sender<Readiness>,
    load: watch::Sender<Load>,
    /// Tokio's clock, not the system's, so that tests can stop it.
    started: Instant,
}

impl EventLoop {
    pub(crate) fn new(
        state: State,
        workers: Vec<std_mpsc::Sender<Command>>,
        readiness: watch::Sender<Readiness>,
        load: watch::Sender<Load>,
    ) -> Self {
        EventLoop {
            state,
            workers,
            jobs: HashMap::new(),
            card: None,
            lost: "none was started".into(),
            draining: None,
            readiness,
            load,
            started: Instant::now(),
        }
    }

    /// Ends once every handle and ticket is gone; the workers' inboxes close with it.
    pub(crate) async fn run(mut self, mut events: mpsc::UnboundedReceiver<Event>) {
        while let Some(event) = events.recv().await {
            self.handle(event);
            self.dispatch();
            self.publish();
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Submit { submissions, reply } => {
                let _ = reply.send(self.submit(submissions));
            }
            Event::Cancel(id) => {
                self.state.cancel(id);
                self.jobs.remove(&id);
            }
            Event::Loaded { worker, card } => {
                tracing::info!(worker, model = card.class, "the worker is ready");
                self.card.get_or_insert_with(|| Arc::new(card));
                self.state.loaded(worker);
            }
            Event::Turned { worker, done, took } => {
                self.state.turned(worker);
                self.turned(done, took);
            }
            Event::Crashed { worker, reason } => {
                tracing::error!(worker, reason, "the pipeline panicked, loading the model again");
                self.crashed(worker, LaneStatus::Loading);
            }
            Event::Lost { worker, reason } => {
                tracing::error!(worker, reason, "the worker is lost");
                self.lost = reason;
                self.crashed(worker, LaneStatus::Lost);
            }
            Event::Drain(drained) => self.draining.get_or_insert_default().push(drained),
            Event::Abort => {
                let ids: Vec<_> = self.jobs.keys().copied().collect();
                for id in ids {
                    self.state.cancel(id);
                    self.answer(id, Err(JobError::ShuttingDown));
                }
            }
        }
    }

    fn submit(&mut self, submissions: Vec<Submission>) -> Result<(), SubmitError> {
        match self.now_ready() {
            Readiness::Ready(_) => {}
            Readiness::Loading => return Err(SubmitError::Loading),
            Readiness::Failed(reason) => return Err(SubmitError::Failed(reason)),
            Readiness::Draining => return Err(SubmitError::ShuttingDown),
        }
        let arrived = self.started.elapsed();
        let jobs = submissions.iter().map(|s| Job::new(s.id, &s.request, arrived)).collect();
        if !self.state.submit(jobs) {
            let waiting = self.state.load().waiting;
            return Err(SubmitError::QueueFull { waiting, predicted_drain: self.state.predicted_drain() });
        }
        for Submission { id, request, updates } in submissions {
            let job = Unanswered {
                request: Some(request),
                updates,
                arrived,
                timings: Timings::default(),
                prepared: Prepared::default(),
                steps: Vec::new(),
            };
            self.jobs.insert(id, job);
        }
        Ok(())
    }

    /// Enters what a turn did. A job that was cancelled meanwhile is not found, here and in the
    /// books, and its part of the turn goes nowhere.
    fn turned(&mut self, done: Done, took: Duration) {
        match done {
            Done::Nothing => {}
            Done::Encoded { id, result: Ok(prepared) } => {
                self.state.encoded(id);
                if let Some(job) = self.jobs.get_mut(&id) {
                    job.prepared = prepared;
                    job.timings.encode = took;
                }
            }
            Done::Stepped { ids, result: Ok(reports) } => {
                self.state.stepped(&ids, took);
                for (id, report) in ids.iter().zip(reports) {
                    if let Some(job) = self.jobs.get_mut(id) {
                        job.timings.denoise += took;
                        job.steps.push(report.clone());
                        let _ = job.updates.send(Update::Stepped(report));
                    }
                }
            }
            Done::Decoded { id, result: Ok(image) } => {
                if let Some(job) = self.jobs.get_mut(&id) {
                    let timings = Timings { decode: took, ..job.timings };
                    let steps = std::mem::take(&mut job.steps);
                    let Prepared { prompt_tokens, warnings } = std::mem::take(&mut job.prepared);
                    let generated = Generated { image, prompt_tokens, warnings, timings, steps };
                    self.answer(id, Ok(generated));
                }
            }
            Done::Encoded { id, result: Err(err) } | Done::Decoded { id, result: Err(err) } => self.failed(id, err),
            Done::Stepped { ids, result: Err(err) } => ids.into_iter().for_each(|id| self.failed(id, err.clone())),
        }
    }

    fn failed(&mut self, id: JobId, err: PipelineError) {
        tracing::debug!(id, error = %err, "the job failed");
        self.answer(id, Err(err.into()));
    }

    /// Answers what the worker was running and, when no worker is left, everything.
    fn crashed(&mut self, worker: WorkerId, status: LaneStatus) {
        let mut ids = self.state.emptied(worker, status);
        if self.state.lanes.iter().all(|lane| lane.status == LaneStatus::Lost) {
            ids = self.jobs.keys().copied().collect();
        }
        ids.into_iter().for_each(|id| self.answer(id, Err(JobError::Crashed)));
    }

    /// The one place where a job is answered, and where it is forgotten.
    fn answer(&mut self, id: JobId, outcome: Outcome) {
        self.state.ended(id);
        if let Some(job) = self.jobs.remove(&id) {
            let _ = job.updates.send(Update::Done(outcome));
        }
    }

    /// Gives every idle worker its next turn.
    fn dispatch(&mut self) {
        let assignments = policy::assign(&self.state);
        self.state.assigned(&assignments);
        for (worker, assignment) in assignments {
            let work = assignment.turn.map(|turn| match turn {
                Turn::Encode(id) => Work::Encode(id, self.take_up(id)),
                Turn::Step(ids) => Work::Step(ids),
                Turn::Decode(id) => Work::Decode(id),
            });
            // A worker that is gone says so itself.
            let _ = self.workers[worker].send(Command { drop: assignment.drop, work });
        }
    }

    fn take_up(&mut self, id: JobId) -> Box<ImageRequest> {
        let job = self.jobs.get_mut(&id).expect("a waiting job is unanswered. This is a bug.");
        job.timings.queue = self.started.elapsed().saturating_sub(job.arrived);
        let _ = job.updates.send(Update::Started);
        job.request.take().expect("a job is taken up once. This is a bug.")
    }

    /// Shows what changed to whoever watches.
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
    }

    fn now_ready(&self) -> Readiness {
        let any = |statuses: &[LaneStatus]| self.state.lanes.iter().any(|lane| statuses.contains(&lane.status));
        match &self.card {
            _ if self.draining.is_some() => Readiness::Draining,
            Some(card) if any(&[LaneStatus::Idle, LaneStatus::Busy]) => Readiness::Ready(card.clone()),
            _ if any(&[LaneStatus::Loading]) => Readiness::Loading,
            _ => Readiness::Failed(self.lost.clone()),
        }
    }
}
