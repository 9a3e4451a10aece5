//! Event loop: handling of events.

use std::time::Duration;

use super::EventLoop;
use crate::booked_job::WorkerId;
use crate::config::JobOptions;
use crate::event::{Event, Submission};
use crate::health::Next;
use crate::job::JobError;
use crate::observer::Observation;
use crate::order::TurnResult;
use crate::refusal::SubmitError;

impl EventLoop {
    pub(super) fn handle(&mut self, event: Event) {
        match event {
            Event::Submit { submissions, options, reply } => {
                let _ = reply.send(self.submit_observed(submissions, options));
            }
            Event::SubmitIdle { submission, options } => self.submit_idle(submission, options),
            Event::Check { requests, options, reply } => {
                let jobs = self.entries(requests.iter().map(|(id, request)| (*id, request)), options);
                let checked = jobs.and_then(|jobs| self.state.check(jobs));
                if let Err(err) = &checked {
                    self.observe(&Observation::Refused(err));
                }
                let _ = reply.send(checked.map(drop));
            }
            Event::Cancel(id) => {
                self.state.cancel(id);
                if self.jobs.remove(&id).is_some() {
                    self.observe(&Observation::Cancelled);
                }
                self.cancel_idle(id);
            }
            Event::Loaded { worker, card, estimator, calibration, free } => {
                tracing::info!(worker, model = card.class, measured = calibration.to_string(), "the worker is ready");
                self.card.get_or_insert(card);
                self.estimator = Some(estimator);
                self.state.cost.calibrate(&calibration);
                self.state.loaded(worker, free);
            }
            Event::Turned { worker, done, took } if self.state.lanes[worker].idle.is_at_work => {
                self.idle_turned(worker, done, took);
            }
            Event::Turned { worker, done, took } => self.turn_ended(worker, done, took),
            Event::Crashed { worker, reason } => {
                let next = self.state.lanes[worker].health.broke(self.state.config.backoff);
                tracing::error!(worker, reason, ?next, "the pipeline crashed");
                self.broke(worker, next, reason);
            }
            Event::NotLoaded { worker, reason } => {
                let next = self.state.lanes[worker].health.did_not_load(self.state.config.backoff);
                tracing::error!(worker, reason, ?next, "the model did not load");
                self.broke(worker, next, reason);
            }
            Event::Lost { worker } => self.broke(worker, Next::Lose, "its thread panicked".into()),
            Event::Drain(drained) => {
                self.draining.get_or_insert_default().push(drained);
                self.give_up_idle(&JobError::GaveWay);
            }
            Event::Abort => {
                let ids: Vec<_> = self.jobs.keys().copied().collect();
                ids.into_iter().for_each(|id| self.give_up(id, JobError::ShuttingDown));
            }
        }
    }

    fn submit_observed(&mut self, submissions: Vec<Submission>, options: JobOptions) -> Result<(), SubmitError> {
        let jobs = submissions.len();
        let accepted = self.submit(submissions, options);
        self.observe(&match &accepted {
            Ok(()) => Observation::Submitted { jobs },
            Err(err) => Observation::Refused(err),
        });
        accepted
    }

    fn turn_ended(&mut self, worker: WorkerId, done: TurnResult, took: Duration) {
        let now = self.now();
        if let Some(after) = self.workers.interrupts.ended(worker, now) {
            tracing::debug!(worker, ?after, "the worker is back from an interrupted turn");
            self.observe(&Observation::Interrupted { after });
        }
        let jobs = self.state.turned(worker);
        self.observe_turn(worker, &done, &jobs, took);
        self.turned(worker, done, &jobs, took);
    }
}
