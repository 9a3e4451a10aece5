//! Event loop: idle work.

use std::time::Duration;

use diffusion::PipelineError;
use tracing::Span;

use super::EventLoop;
use crate::booked_job::{JobId, WorkerId};
use crate::config::JobOptions;
use crate::event::Submission;
use crate::job::{JobError, Outcome, Timings, Update};
use crate::observer::Observation;
use crate::order::{TurnResult, Work};
use crate::turn::Turn;
use crate::unanswered::Unanswered;

impl EventLoop {
    pub(super) fn submit_idle(&mut self, submission: Submission, options: JobOptions) {
        let (id, now) = (submission.id, self.now());
        let entries = self.entries([(id, &*submission.request)].into_iter(), options).unwrap_or_default();
        self.idle.insert(id, Unanswered::new(submission, options.latents, 0, now));
        let taken = entries.first().map(|job| self.state.submit_idle(*job));
        let gone = taken.and_then(Result::ok).unwrap_or(Some(id));
        gone.into_iter().for_each(|id| self.answer_idle(id, Err(JobError::GaveWay)));
    }

    /// Cancels the job if it is idle work.
    pub(super) fn cancel_idle(&mut self, id: JobId) {
        if self.idle.remove(&id).is_some() {
            self.state.cancel_idle(id);
        }
    }

    /// Gives up all idle work.
    pub(super) fn give_up_idle(&mut self, err: &JobError) {
        self.state.cancel_all_idle().into_iter().for_each(|id| self.answer_idle(id, Err(err.clone())));
    }

    /// Gives a turn of idle work to workers that have nothing else to do.
    pub(super) fn dispatch_idle(&mut self) {
        let assignments = self.state.assign_idle(self.now());
        self.state.assigned_idle(&assignments);
        for (worker, assignment) in assignments {
            let work = assignment.turn.and_then(|turn| self.idle_work(turn));
            self.order(worker, assignment.drop, work);
        }
    }

    fn idle_work(&mut self, turn: Turn) -> Option<Work> {
        Some(match turn {
            Turn::Encode(id) => {
                let job = self.idle.get_mut(&id)?;
                job.queue_span = Span::none();
                Work::Encode(id, job.request.clone(), job.span.clone())
            }
            Turn::Step(ids) => Work::Step(ids),
            Turn::Decode(id) => Work::Decode(id, self.idle.get(&id)?.wants_latents),
            Turn::Preview(_) => return None,
        })
    }

    /// Interrupts the turns of idle work that delay jobs.
    pub(super) fn preempt(&mut self) {
        let now = self.now();
        for worker in self.state.preempted() {
            self.workers.interrupts.set(worker, now);
        }
    }

    /// Records the result of a turn of idle work. An interrupted turn is retried later, unless the work was given up.
    pub(super) fn idle_turned(&mut self, worker: WorkerId, done: TurnResult, took: Duration) {
        let now = self.now();
        if let Some(after) = self.workers.interrupts.ended(worker, now) {
            self.observe(&Observation::Preempted { after });
        }
        self.state.turned(worker);
        let Some(id) = self.state.lanes[worker].idle.held.map(|idle| idle.job.id) else { return };
        let Some(job) = self.idle.get_mut(&id) else { return };
        match done {
            TurnResult::Encoded { result: Ok(prepared), .. } => {
                self.state.lanes[worker].kept = prepared.kept;
                // The work may have been encoded before, so its records are reset.
                (job.steps, job.prepared) = (Vec::new(), prepared);
                job.timings = Timings { encode: took, ..Timings::default() };
                self.state.idled(worker);
            }
            TurnResult::Stepped(Ok(reports)) => {
                job.timings.denoise += took;
                job.steps.extend(reports);
                self.state.idled(worker);
            }
            TurnResult::Decoded { result: Ok(decoded), .. } => {
                let generated = job.generated(decoded, took);
                self.state.idled(worker);
                self.answer_idle(id, Ok(generated));
            }
            TurnResult::Encoded { result: Err(err), .. }
            | TurnResult::Decoded { result: Err(err), .. }
            | TurnResult::Stepped(Err(err)) => self.idle_failed(worker, id, err),
            TurnResult::Nothing | TurnResult::Previewed { .. } | TurnResult::Tried(_) => {}
        }
    }

    /// Fails idle work, which is not retried, unless it was only interrupted.
    fn idle_failed(&mut self, worker: WorkerId, id: JobId, err: PipelineError) {
        match err {
            PipelineError::Interrupted => return,
            PipelineError::Model(_) => {
                let now = self.now();
                tracing::error!(worker, error = %err, "the device failed at idle work");
                self.state.lanes[worker].health.failed(now, self.state.config.backoff);
            }
            _ => {}
        }
        self.state.cancel_idle(id);
        self.answer_idle(id, Err(err.into()));
    }

    /// Answers idle work and forgets it. This is the only place where idle work is answered.
    pub(super) fn answer_idle(&mut self, id: JobId, outcome: Outcome) {
        if let Some(job) = self.idle.remove(&id) {
            let _ = job.updates.send(Update::Done(outcome));
        }
    }
}
