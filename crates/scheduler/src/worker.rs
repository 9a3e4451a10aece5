//! One OS thread a device: does what a [`Command`] says, then reports.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc as std_mpsc;
use std::time::Instant;

use diffusion::{EncodingsUse, ImageRequest, Interrupt, Pipeline, PipelineError, PreviewMethod, RgbImage, StepReport};
use tokio::sync::mpsc;
use tracing::{Span, info_span};

use crate::calibration::MeasureOnce;
use crate::run::Event;
use crate::state::{JobId, WorkerId};

/// One turn: what to drop first, then what to do until `interrupt` is set.
pub(crate) struct Command {
    pub(crate) drop: Vec<JobId>,
    pub(crate) work: Option<Work>,
    pub(crate) interrupt: Interrupt,
}

pub(crate) enum Work {
    /// The span is what the job's own spans belong to.
    Encode(JobId, Box<ImageRequest>, Span),
    Step(Vec<JobId>),
    Preview(JobId, PreviewMethod),
    Decode(JobId),
}

/// What the pipeline said of a job when it encoded it.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    pub(crate) prompt_tokens: usize,
    pub(crate) encodings: EncodingsUse,
    pub(crate) warnings: Vec<String>,
}

/// What came of a turn. What ran out of memory in a step or a decoding is held as it was before.
#[derive(Debug)]
pub(crate) enum Done {
    Nothing,
    /// The tokens of the prompts.
    Encoded {
        id: JobId,
        result: Result<Prepared, PipelineError>,
    },
    /// One report a job, oldest job first.
    Stepped(Result<Vec<StepReport>, PipelineError>),
    Previewed {
        id: JobId,
        result: Result<RgbImage, PipelineError>,
    },
    Decoded {
        id: JobId,
        result: Result<RgbImage, PipelineError>,
    },
}

/// Starts the thread of a worker, which ends once the returned inbox is dropped. If no other worker's
/// pipeline is measured, its own is, until `shutdown` is set.
pub(crate) fn spawn<P, E, F>(
    worker: WorkerId,
    factory: F,
    measure: MeasureOnce,
    shutdown: Interrupt,
    events: mpsc::WeakUnboundedSender<Event>,
) -> std_mpsc::Sender<Command>
where
    P: Pipeline,
    E: fmt::Display,
    F: Fn() -> Result<P, E> + Send + 'static,
{
    let (sender, inbox) = std_mpsc::channel();
    let mut reports = Reports { worker, events, reason: None };
    let main = move || {
        while let Some(pipeline) = load(&factory, &measure, &shutdown, &mut reports) {
            let mut worker = Worker { pipeline, jobs: BTreeMap::new() };
            // What a panic leaves behind, the pipeline and every state, is dropped and not used again.
            match catch_unwind(AssertUnwindSafe(|| worker.run(&inbox, &reports))) {
                Ok(()) => return,
                Err(panic) => reports.send(Event::Crashed { worker: reports.worker, reason: message(&*panic) }),
            }
        }
    };
    let thread = std::thread::Builder::new().name(format!("worker-{worker}")).spawn(main);
    thread.expect("a thread for the worker");
    sender
}

/// Makes the pipeline; without one, the thread ends and its reports say why.
fn load<P: Pipeline, E: fmt::Display>(
    factory: impl Fn() -> Result<P, E>,
    measure: &MeasureOnce,
    shutdown: &Interrupt,
    reports: &mut Reports,
) -> Option<P> {
    match factory() {
        Ok(mut pipeline) => {
            let (card, estimator) = (pipeline.card().clone(), pipeline.estimator());
            let calibration = measure.calibrate(&mut pipeline, shutdown);
            reports.send(Event::Loaded { worker: reports.worker, card, estimator, calibration });
            Some(pipeline)
        }
        Err(err) => {
            reports.reason = Some(err.to_string());
            None
        }
    }
}

/// A worker's way back to the event loop. Weak, so that workers do not keep the loop alive:
/// only handles and tickets do.
struct Reports {
    worker: WorkerId,
    events: mpsc::WeakUnboundedSender<Event>,
    reason: Option<String>,
}

impl Reports {
    fn send(&self, event: Event) {
        if let Some(events) = self.events.upgrade() {
            let _ = events.send(event);
        }
    }
}

impl Drop for Reports {
    /// Runs however the thread ends, so that no job waits on a dead one.
    fn drop(&mut self) {
        let reason = self.reason.take().unwrap_or_else(|| "its thread panicked".into());
        self.send(Event::Lost { worker: self.worker, reason });
    }
}

struct Worker<P: Pipeline> {
    pipeline: P,
    /// Ordered, so that a batch is always laid out oldest job first.
    jobs: BTreeMap<JobId, Held<P::State>>,
}

/// A job that was encoded.
struct Held<S> {
    state: S,
    span: Span,
}

impl<P: Pipeline> Worker<P> {
    /// Ends when the event loop drops its side of `inbox`.
    fn run(&mut self, inbox: &std_mpsc::Receiver<Command>, reports: &Reports) {
        for Command { drop, work, interrupt } in inbox {
            drop.iter().for_each(|id| _ = self.jobs.remove(id));
            let started = Instant::now();
            let done = work.map_or(Done::Nothing, |work| self.turn(work, &interrupt));
            reports.send(Event::Turned { worker: reports.worker, done, took: started.elapsed() });
        }
    }

    fn turn(&mut self, work: Work, interrupt: &Interrupt) -> Done {
        match work {
            Work::Encode(id, request, span) => Done::Encoded { id, result: self.encode(id, &request, span, interrupt) },
            Work::Step(ids) => Done::Stepped(self.step(&ids, interrupt)),
            Work::Preview(id, method) => Done::Previewed { id, result: self.preview(id, method, interrupt) },
            Work::Decode(id) => Done::Decoded { id, result: self.decode(id, interrupt) },
        }
    }

    /// Draws the picture as far as the job's last step foresees it.
    fn preview(&mut self, id: JobId, method: PreviewMethod, interrupt: &Interrupt) -> Result<RgbImage, PipelineError> {
        let job = &self.jobs[&id];
        let draw = || self.pipeline.preview(&job.state, method, interrupt);
        info_span!(parent: &job.span, "preview").in_scope(draw)
    }

    fn encode(
        &mut self,
        id: JobId,
        request: &ImageRequest,
        span: Span,
        interrupt: &Interrupt,
    ) -> Result<Prepared, PipelineError> {
        let state = info_span!(parent: &span, "encode").in_scope(|| self.pipeline.prepare(request, interrupt))?;
        let prepared = Prepared {
            prompt_tokens: self.pipeline.prompt_tokens(&state),
            encodings: self.pipeline.encodings(&state),
            warnings: self.pipeline.warnings(&state),
        };
        self.jobs.insert(id, Held { state, span });
        Ok(prepared)
    }

    fn step(&mut self, ids: &[JobId], interrupt: &Interrupt) -> Result<Vec<StepReport>, PipelineError> {
        // A step of several jobs is a part of each of them.
        let span = |id| info_span!(parent: &self.jobs.get(id)?.span, "step", batch = ids.len()).into();
        let _spans: Vec<Option<Span>> = ids.iter().map(span).collect();
        let chosen = self.jobs.iter_mut().filter(|(id, _)| ids.contains(id));
        let mut batch: Vec<_> = chosen.map(|(_, job)| &mut job.state).collect();
        assert_eq!(batch.len(), ids.len(), "an encoded job has a state. This is a bug.");
        let before: Vec<P::State> = batch.iter().map(|state| (**state).clone()).collect();
        let result = self.pipeline.step(&mut batch, interrupt);
        match &result {
            Ok(reports) => {
                assert_eq!(reports.len(), batch.len(), "one report a request. This is a bug.");
            }
            // Any other error leaves states that are not to be used again; the jobs fail and are dropped.
            Err(PipelineError::OutOfMemory) => batch.into_iter().zip(before).for_each(|(state, old)| *state = old),
            Err(_) => {}
        }
        result
    }

    fn decode(&mut self, id: JobId, interrupt: &Interrupt) -> Result<RgbImage, PipelineError> {
        let job = self.jobs.remove(&id).expect("an encoded job has a state. This is a bug.");
        let decode = || self.pipeline.decode(job.state.clone(), interrupt);
        let result = info_span!(parent: &job.span, "decode").in_scope(decode);
        if let Err(PipelineError::OutOfMemory) = result {
            self.jobs.insert(id, job);
        }
        result
    }
}

/// What a panic said.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}
