//! Event loop: failed turns and failed workers.

use diffusion::PipelineError;

use super::EventLoop;
use crate::booked_job::{Job, JobId, Needs, WorkerId};
use crate::health::Next;
use crate::job::{JobError, Update};
use crate::lane::LaneStatus;
use crate::observer::Observation;
use crate::order::{Order, Work};
use crate::retries::Retried;

impl EventLoop {
    /// Handles a failed turn for `jobs`.
    pub(super) fn failed(&mut self, worker: WorkerId, jobs: &[Job], err: PipelineError) {
        match err {
            PipelineError::OutOfMemory => {
                tracing::warn!(worker, jobs = jobs.len(), "out of memory");
                match self.state.ran_out_beside_idle(worker, jobs) {
                    Some(gone) => gone.into_iter().for_each(|id| self.answer_idle(id, Err(JobError::GaveWay))),
                    None => {
                        let refused = self.state.ran_out(worker, jobs);
                        refused.into_iter().for_each(|id| self.give_up(id, PipelineError::OutOfMemory.into()));
                    }
                }
                // A failed encoding leaves no state; what was stepped or decoded is held as before.
                let encoded = jobs.iter().filter(|job| job.needs == Needs::Encode).map(|job| job.id);
                self.told_restarted(encoded.collect());
            }
            PipelineError::Model(_) => {
                tracing::error!(worker, jobs = jobs.len(), error = %err, "the device failed");
                let Retried { again, refused } = self.state.device_failed(worker, jobs, self.now());
                self.told_restarted(again);
                refused.into_iter().for_each(|id| self.give_up(id, err.clone().into()));
            }
            err => jobs.iter().for_each(|job| self.give_up(job.id, err.clone().into())),
        }
    }

    /// Handles a worker that lost its pipeline: its jobs are run again or, if no worker is left, answered.
    pub(super) fn broke(&mut self, worker: WorkerId, next: Next, reason: String) {
        if self.state.lanes[worker].status == LaneStatus::Lost {
            return;
        }
        self.observe(&Observation::Crashed);
        let idle = self.state.idle_lost(worker);
        idle.into_iter().for_each(|id| self.answer_idle(id, Err(JobError::CrashesModel(reason.clone()))));
        let Retried { again, refused } = self.state.pipeline_lost(worker, next, self.now());
        self.told_restarted(again);
        refused.into_iter().for_each(|id| self.answer(id, Err(JobError::CrashesModel(reason.clone()))));
        if next == Next::Lose {
            tracing::error!(worker, reason, "the worker is lost");
            self.lost = reason;
            // If its thread has ended, the send fails, which is harmless.
            let _ = self.workers.inboxes[worker].send(Order::End);
        }
        if self.state.lanes.iter().all(|lane| lane.status == LaneStatus::Lost) {
            let ids: Vec<_> = self.jobs.keys().copied().collect();
            ids.into_iter().for_each(|id| self.answer(id, Err(JobError::Crashed)));
            self.give_up_idle(&JobError::Crashed);
        }
    }

    /// Sends `Restarted` to the jobs that are queued again.
    fn told_restarted(&mut self, ids: Vec<JobId>) {
        for id in ids {
            let is_waiting = self.state.waiting.iter().any(|job| job.id == id);
            let Some(job) = self.jobs.get_mut(&id).filter(|_| is_waiting) else { continue };
            tracing::info!(id, "the job runs again from its start");
            job.begin_again();
            let _ = job.updates.send(Update::Restarted);
            self.observe(&Observation::Restarted);
        }
    }

    /// Orders due reloads, and trials of workers that failed several times.
    pub(super) fn mend(&mut self) {
        for worker in self.state.reloads(self.now()) {
            tracing::info!(worker, "loading the model again");
            let _ = self.workers.inboxes[worker].send(Order::Load);
        }
        for (worker, drop) in self.state.trials() {
            tracing::warn!(worker, "the worker failed several times in a row and is tried");
            self.order(worker, drop, Some(Work::Trial));
        }
    }
}
