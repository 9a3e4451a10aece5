//! The worker: one OS thread per device that executes each [`WorkerCommand`] and reports the result.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc as std_mpsc};
use std::time::Instant;

use diffusion::{ImageRequest, Interrupt, Pipeline, PipelineError, PreviewMethod, RgbImage, StepReport};
use tokio::sync::mpsc;
use tracing::{Span, info_span};

use crate::booked_job::{JobId, WorkerId};
use crate::calibration::MeasureOnce;
use crate::event::Event;
use crate::order::{Decoded, Order, Prepared, TurnResult, Work, WorkerCommand};
use crate::trial::pass_trial;

/// Starts the thread of a worker, which ends once the returned inbox is dropped. It measures its pipeline, until
/// `shutdown` is set, unless another worker has.
pub(crate) fn spawn<P, E, F>(
    worker: WorkerId,
    factory: F,
    measure: MeasureOnce,
    shutdown: Interrupt,
    events: mpsc::WeakUnboundedSender<Event>,
) -> std_mpsc::Sender<Order>
where
    P: Pipeline,
    E: fmt::Display,
    F: Fn() -> Result<P, E> + Send + 'static,
{
    let (sender, inbox) = std_mpsc::channel();
    let reports = Reports { worker, events };
    let main = move || {
        let mut is_first = true;
        loop {
            match live(&factory, (&measure, &shutdown), is_first, &inbox, &reports) {
                Life::Ended => return,
                Life::LoadAgain => {}
                // The pipeline has been dropped by now.
                Life::Broke(event) => {
                    reports.send(event);
                    if !is_told_to_load(&inbox) {
                        return;
                    }
                }
            }
            is_first = false;
        }
    };
    let thread = std::thread::Builder::new().name(format!("worker-{worker}")).spawn(main);
    thread.expect("a thread for the worker");
    sender
}

/// How the life of a pipeline ended.
enum Life {
    /// The event loop no longer needs the worker.
    Ended,
    LoadAgain,
    /// It broke, or never started; the event to report.
    Broke(Event),
}

/// Creates a pipeline and executes orders with it. After a panic or a lost device, the pipeline and every state are
/// dropped and not used again.
fn live<P: Pipeline, E: fmt::Display>(
    factory: &impl Fn() -> Result<P, E>,
    (measure, shutdown): (&MeasureOnce, &Interrupt),
    is_first: bool,
    inbox: &std_mpsc::Receiver<Order>,
    reports: &Reports,
) -> Life {
    let worker = reports.worker;
    let loaded = catch_unwind(AssertUnwindSafe(|| load(factory, measure, shutdown, is_first, reports)));
    let pipeline = match loaded.unwrap_or_else(|panic| Err(format!("it panicked: {}", message(&*panic)))) {
        Ok(pipeline) => pipeline,
        Err(reason) => return Life::Broke(Event::NotLoaded { worker, reason }),
    };
    let mut held = Worker { pipeline, jobs: BTreeMap::new() };
    let life = match catch_unwind(AssertUnwindSafe(|| held.run(inbox, reports))) {
        Ok(life) => life,
        Err(panic) => Life::Broke(Event::Crashed { worker, reason: message(&*panic) }),
    };
    // Dropping may panic too if the device is broken.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(held)));
    life
}

/// Creates the pipeline. A replacement must pass a trial.
///
/// # Errors
/// The reason why there is no pipeline.
fn load<P: Pipeline, E: fmt::Display>(
    factory: impl Fn() -> Result<P, E>,
    measure: &MeasureOnce,
    shutdown: &Interrupt,
    is_first: bool,
    reports: &Reports,
) -> Result<P, String> {
    let mut pipeline = factory().map_err(|err| err.to_string())?;
    if !is_first {
        pass_trial(&mut pipeline, shutdown).map_err(|err| err.to_string())?;
    }
    let (card, estimator) = (Arc::new(pipeline.card().clone()), pipeline.estimator());
    let calibration = measure.calibrate(&mut pipeline, shutdown);
    let free = pipeline.free_bytes();
    reports.send(Event::Loaded { worker: reports.worker, card, estimator, calibration, free });
    Ok(pipeline)
}

/// Waits for the order to load the model again. Returns whether it came.
fn is_told_to_load(inbox: &std_mpsc::Receiver<Order>) -> bool {
    // Turns ordered before the breakdown are void.
    inbox.iter().find(|order| !matches!(order, Order::Turn(_))).is_some_and(|order| matches!(order, Order::Load))
}

/// A worker's channel to the event loop. It is weak, so that workers do not keep the loop alive: only handles and
/// tickets do.
struct Reports {
    worker: WorkerId,
    events: mpsc::WeakUnboundedSender<Event>,
}

impl Reports {
    fn send(&self, event: Event) {
        if let Some(events) = self.events.upgrade() {
            let _ = events.send(event);
        }
    }
}

impl Drop for Reports {
    /// Runs at any end of the thread, so that no job waits for a dead one.
    fn drop(&mut self) {
        self.send(Event::Lost { worker: self.worker });
    }
}

struct Worker<P: Pipeline> {
    pipeline: P,
    /// Ordered, so that every batch is laid out oldest job first.
    jobs: BTreeMap<JobId, Held<P::State>>,
}

/// An encoded job.
struct Held<S> {
    state: S,
    span: Span,
}

impl<P: Pipeline> Worker<P> {
    /// Executes orders until the event loop drops its side of `inbox` or says so, or the device is lost.
    fn run(&mut self, inbox: &std_mpsc::Receiver<Order>, reports: &Reports) -> Life {
        for order in inbox {
            let WorkerCommand { drop, work, interrupt } = match order {
                Order::Turn(command) => command,
                Order::Load => return Life::LoadAgain,
                Order::End => return Life::Ended,
            };
            drop.iter().for_each(|id| _ = self.jobs.remove(id));
            let started = Instant::now();
            let done = work.map_or(TurnResult::Nothing, |work| self.turn(work, &interrupt));
            if let Some(err) = done.device_lost() {
                return Life::Broke(Event::Crashed { worker: reports.worker, reason: err.to_string() });
            }
            reports.send(Event::Turned { worker: reports.worker, done, took: started.elapsed() });
        }
        Life::Ended
    }

    fn turn(&mut self, work: Work, interrupt: &Interrupt) -> TurnResult {
        match work {
            Work::Encode(id, request, span) => {
                TurnResult::Encoded { id, result: self.encode(id, &request, span, interrupt) }
            }
            Work::Step(ids) => TurnResult::Stepped(self.step(&ids, interrupt)),
            Work::Preview(id, method) => TurnResult::Previewed { id, result: self.preview(id, method, interrupt) },
            Work::Decode(id, latents) => TurnResult::Decoded { id, result: self.decode(id, latents, interrupt) },
            Work::Trial => TurnResult::Tried(pass_trial(&mut self.pipeline, interrupt)),
        }
    }

    /// Draws a preview from the estimate of the job's last step.
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
            kept: self.pipeline.kept_bytes(),
            warnings: self.pipeline.warnings(&state),
            cost: Some(Box::new(self.pipeline.estimator()(request))),
        };
        self.jobs.insert(id, Held { state, span });
        Ok(prepared)
    }

    fn step(&mut self, ids: &[JobId], interrupt: &Interrupt) -> Result<Vec<StepReport>, PipelineError> {
        // A step of several jobs has a span in each of them.
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
            // After any other error the states must not be used again; the jobs fail and are dropped. Interrupted work
            // may be idle work, which continues later.
            Err(PipelineError::OutOfMemory | PipelineError::Interrupted) => {
                batch.into_iter().zip(before).for_each(|(state, old)| *state = old)
            }
            Err(_) => {}
        }
        result
    }

    fn decode(&mut self, id: JobId, latents: bool, interrupt: &Interrupt) -> Result<Decoded, PipelineError> {
        let mut job = self.jobs.remove(&id).expect("an encoded job has a state. This is a bug.");
        self.pipeline.release(&mut job.state);
        let decode = || {
            // Nothing depends on the latents, so a failure is ignored.
            let latents = latents.then(|| self.pipeline.latents(&job.state).ok()).flatten();
            let image = self.pipeline.decode(job.state.clone(), interrupt)?;
            Ok(Decoded { image, latents })
        };
        let result = info_span!(parent: &job.span, "decode").in_scope(decode);
        if let Err(PipelineError::OutOfMemory | PipelineError::Interrupted) = result {
            self.jobs.insert(id, job);
        }
        result
    }
}

/// The message of a panic.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}
