//! The event loop: the only place that owns both the books and the channels.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc as std_mpsc};
use std::time::Duration;

use diffusion::{Estimator, ImageRequest, ModelCard, PipelineError, RgbImage, StepReport};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::Span;

use crate::calibration::Calibration;
use crate::config::JobOptions;
use crate::handle::SubmitError;
use crate::interrupts::Interrupts;
use crate::job::{Generated, JobError, Outcome, Timings, Update};
use crate::observer::{Observation, Observer};
use crate::policy::{self, Turn};
use crate::readiness::{Load, Readiness};
use crate::state::{Job, JobId, LaneStatus, State, WorkerId};
use crate::ticket::NOT_WAITING;
use crate::worker::{Command, Done, Prepared, Work};

/// Everything that can happen to the scheduler, besides the passing of a deadline.
pub(crate) enum Event {
    /// New jobs, to be taken all or none.
    Submit { submissions: Vec<Submission>, options: JobOptions, reply: oneshot::Sender<Result<(), SubmitError>> },
    /// Nobody waits for the job any more.
    Cancel(JobId),
    /// A worker has its model, measured it, and is idle.
    Loaded { worker: WorkerId, card: ModelCard, estimator: Estimator, calibration: Calibration },
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
pub(crate) struct Submission {
    pub(crate) id: JobId,
    pub(crate) request: Box<ImageRequest>,
    pub(crate) updates: mpsc::UnboundedSender<Update>,
    pub(crate) position: Arc<AtomicUsize>,
    /// What the spans of its stages belong to.
    pub(crate) span: Span,
}

/// A job that was taken and not answered.
struct Unanswered {
    /// Until a worker is told to encode it.
    request: Option<Box<ImageRequest>>,
    updates: mpsc::UnboundedSender<Update>,
    position: Arc<AtomicUsize>,
    /// Its position when it was submitted; kept up to the answer.
    first_position: usize,
    arrived: Duration,
    timings: Timings,
    prepared: Prepared,
    steps: Vec<StepReport>,
    previews_drawn: usize,
    span: Span,
    /// Its time in line.
    queue_span: Span,
}

impl Unanswered {
    /// Its answer, when its decoding took so long.
    fn generated(&mut self, image: RgbImage, decode: Duration) -> Generated {
        let Prepared { prompt_tokens, warnings, .. } = std::mem::take(&mut self.prepared);
        let timings = Timings { decode, ..self.timings };
        let steps = std::mem::take(&mut self.steps);
        Generated { image, prompt_tokens, warnings, timings, position: self.first_position, steps }
    }
}

/// The ways to the workers.
pub(crate) struct Workers {
    /// Of each worker.
    pub(crate) inboxes: Vec<std_mpsc::Sender<Command>>,
    pub(crate) interrupts: Interrupts,
}

pub(crate) struct EventLoop {
    state: State,
    workers: Workers,
    observer: Option<Observer>,
    jobs: HashMap<JobId, Unanswered>,
    card: Option<Arc<ModelCard>>,
    /// There is one once there is a card.
    estimator: Option<Estimator>,
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
            card: None,
            estimator: None,
            lost: "none was started".into(),
            draining: None,
            readiness,
            load,
            started: Instant::now(),
        }
    }

    /// Ends once every handle and ticket is gone; the workers' inboxes close with it, and their turns are interrupted.
    pub(crate) async fn run(mut self, mut events: mpsc::UnboundedReceiver<Event>) {
        loop {
            let deadline = self.state.next_deadline().and_then(|deadline| self.started.checked_add(deadline));
            let event = match deadline {
                Some(deadline) => tokio::time::timeout_at(deadline, events.recv()).await,
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
            self.dispatch();
            self.publish();
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Submit { submissions, options, reply } => {
                let jobs = submissions.len();
                let accepted = self.submit(submissions, options);
                self.observe(&match &accepted {
                    Ok(()) => Observation::Submitted { jobs },
                    Err(err) => Observation::Refused(err),
                });
                let _ = reply.send(accepted);
            }
            Event::Cancel(id) => {
                self.state.cancel(id);
                if self.jobs.remove(&id).is_some() {
                    self.observe(&Observation::Cancelled);
                }
            }
            Event::Loaded { worker, card, estimator, calibration } => {
                tracing::info!(worker, model = card.class, steps = ?calibration.steps, "the worker is ready");
                self.card.get_or_insert_with(|| Arc::new(card));
                self.estimator = Some(estimator);
                self.state.cost.calibrate(&calibration);
                self.state.loaded(worker);
            }
            Event::Turned { worker, done, took } => {
                let now = self.now();
                if let Some(after) = self.workers.interrupts.ended(worker, now) {
                    tracing::debug!(worker, ?after, "the worker is back from an interrupted turn");
                    self.observe(&Observation::Interrupted { after });
                }
                let jobs = self.state.turned(worker);
                self.observe_turn(worker, &done, &jobs, took);
                self.turned(worker, done, &jobs, took);
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
                ids.into_iter().for_each(|id| self.give_up(id, JobError::ShuttingDown));
            }
        }
    }

    fn submit(&mut self, submissions: Vec<Submission>, options: JobOptions) -> Result<(), SubmitError> {
        match self.now_ready() {
            Readiness::Ready(_) => {}
            Readiness::Loading => return Err(SubmitError::Loading),
            Readiness::Failed(reason) => return Err(SubmitError::Failed(reason)),
            Readiness::Draining => return Err(SubmitError::ShuttingDown),
        }
        let arrived = self.now();
        let estimator = self.estimator.as_ref().expect("a ready worker left one. This is a bug.");
        let job = |s: &Submission| Job::new(s.id, estimator(&s.request), options, arrived);
        self.state.submit(submissions.iter().map(job).collect())?;
        let line = self.state.line(arrived);
        for Submission { id, request, updates, position, span } in submissions {
            let job = Unanswered {
                request: Some(request),
                updates,
                first_position: line.iter().position(|other| *other == id).unwrap_or_default(),
                position,
                arrived,
                timings: Timings::default(),
                prepared: Prepared::default(),
                steps: Vec::new(),
                previews_drawn: 0,
                queue_span: tracing::info_span!(parent: &span, "queue"),
                span,
            };
            self.jobs.insert(id, job);
        }
        Ok(())
    }

    /// Enters what a turn for `jobs` did. A job that was cancelled meanwhile is not found, here and
    /// in the books, and its part of the turn goes nowhere.
    fn turned(&mut self, worker: WorkerId, done: Done, jobs: &[Job], took: Duration) {
        match done {
            Done::Nothing => {}
            Done::Encoded { id, result: Ok(prepared) } => {
                self.state.encoded(id, prepared.encodings.work, took);
                if let Some(job) = self.jobs.get_mut(&id) {
                    job.prepared = prepared;
                    job.timings.encode = took;
                }
            }
            Done::Stepped(Ok(reports)) => {
                self.state.stepped(jobs, &reports, took);
                for (job, report) in jobs.iter().zip(reports) {
                    if let Some(job) = self.jobs.get_mut(&job.id) {
                        job.timings.denoise += took;
                        job.steps.push(report.clone());
                        let _ = job.updates.send(Update::Stepped(report));
                    }
                }
            }
            Done::Previewed { id, result } => self.previewed(id, result, took),
            Done::Decoded { id, result: Ok(image) } => {
                self.state.decoded(id, took);
                if let Some(job) = self.jobs.get_mut(&id) {
                    let generated = job.generated(image, took);
                    self.answer(id, Ok(generated));
                }
            }
            Done::Stepped(Err(PipelineError::OutOfMemory)) => self.out_of_memory(worker, jobs),
            Done::Decoded { id, result: Err(PipelineError::OutOfMemory) } if self.state.put_off(id) => {
                tracing::warn!(id, "out of memory in a decoding, to be tried again once nothing else is held");
            }
            Done::Encoded { id, result: Err(PipelineError::OutOfMemory) } => {
                self.give_up(id, PipelineError::OutOfMemory.into());
                self.state.ran_out(worker);
            }
            Done::Encoded { id, result: Err(err) } | Done::Decoded { id, result: Err(err) } => {
                self.give_up(id, err.into());
            }
            Done::Stepped(Err(err)) => jobs.iter().for_each(|job| self.give_up(job.id, err.clone().into())),
        }
    }

    /// Nothing depends on a preview: one that fails is left out.
    fn previewed(&mut self, id: JobId, result: Result<RgbImage, PipelineError>, took: Duration) {
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
            Err(err) => tracing::warn!(id, error = %err, "a preview is left out"),
        }
    }

    /// A step of `jobs` ran out of memory and was taken back: the largest fails, the others go on.
    fn out_of_memory(&mut self, worker: WorkerId, jobs: &[Job]) {
        if let Some(id) = self.state.largest(jobs) {
            tracing::warn!(id, "out of memory in a step, its largest job fails");
            self.give_up(id, PipelineError::OutOfMemory.into());
            self.state.ran_out(worker);
        }
    }

    /// Fails a job that its worker may hold yet.
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

    /// Ends the turns that nobody waits for any more.
    fn interrupt(&mut self) {
        let now = self.now();
        for worker in self.state.abandoned() {
            self.workers.interrupts.set(worker, now);
        }
    }

    /// Answers what the worker was running and, when no worker is left, everything.
    fn crashed(&mut self, worker: WorkerId, status: LaneStatus) {
        self.observe(&Observation::Crashed);
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
            let total = self.now().saturating_sub(job.arrived);
            self.observe(&Observation::Answered { outcome: &outcome, total });
            let _ = job.updates.send(Update::Done(outcome));
        }
    }

    /// Gives every idle worker its next turn.
    fn dispatch(&mut self) {
        let assignments = policy::assign(&self.state, self.now());
        self.state.assigned(&assignments);
        for (worker, assignment) in assignments {
            let work = assignment.turn.map(|turn| match turn {
                Turn::Encode(id) => self.take_up(id),
                Turn::Step(ids) => Work::Step(ids),
                Turn::Preview(id) => Work::Preview(id, self.state.preview_method(id)),
                Turn::Decode(id) => Work::Decode(id),
            });
            // A worker that is gone says so itself.
            let interrupt = self.workers.interrupts.begin(worker);
            let _ = self.workers.inboxes[worker].send(Command { drop: assignment.drop, work, interrupt });
        }
    }

    fn take_up(&mut self, id: JobId) -> Work {
        let now = self.now();
        let job = self.jobs.get_mut(&id).expect("a waiting job is unanswered. This is a bug.");
        job.timings.queue = now.saturating_sub(job.arrived);
        let queued = job.timings.queue;
        let _ = job.updates.send(Update::Started { queued });
        job.position.store(NOT_WAITING, Ordering::Relaxed);
        let request = job.request.take().expect("a job is taken up once. This is a bug.");
        job.queue_span = Span::none();
        let work = Work::Encode(id, request, job.span.clone());
        self.observe(&Observation::Started { queued });
        work
    }

    fn observe(&self, observation: &Observation<'_>) {
        if let Some(observer) = &self.observer {
            observer(observation);
        }
    }

    /// Shows a turn that did what it should.
    fn observe_turn(&self, worker: WorkerId, done: &Done, jobs: &[Job], took: Duration) {
        match done {
            Done::Encoded { result: Ok(prepared), .. } => {
                self.observe(&Observation::Encoded { worker, took, encodings: prepared.encodings });
            }
            Done::Stepped(Ok(reports)) => {
                let tokens = jobs.iter().map(|job| job.cost.tokens * job.cost.passes).sum();
                self.observe(&Observation::Stepped { batch: jobs.len(), tokens, took, reports });
            }
            Done::Previewed { result: Ok(_), .. } => self.observe(&Observation::Previewed { took }),
            Done::Decoded { result: Ok(_), .. } => self.observe(&Observation::Decoded { took }),
            _ => {}
        }
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
        for (position, id) in self.state.line(self.now()).iter().enumerate() {
            if let Some(job) = self.jobs.get(id) {
                job.position.store(position, Ordering::Relaxed);
            }
        }
        let Load { waiting, running } = load;
        let (busy_workers, predicted_drain) = (self.state.busy_workers(), self.state.predicted_drain());
        self.observe(&Observation::Load { waiting, running, busy_workers, predicted_drain });
    }

    /// The time since the start: all that the books know of clocks.
    fn now(&self) -> Duration {
        self.started.elapsed()
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
