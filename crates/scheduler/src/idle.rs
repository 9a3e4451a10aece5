//! Idle work: jobs that a worker runs while no client waits. The books keep them apart from other jobs, so that no
//! count, prediction or share includes them.
//!
//! A worker takes up idle work once it has had no job for a moment and none is queued. It sets the work aside as soon
//! as a job comes: the turn in progress is interrupted, and retried later from the state before it. That state stays on
//! the worker while there is memory for it beside the needs of the jobs. Otherwise it is dropped, and the work
//! restarts.

use std::time::Duration;

use crate::booked_job::{Job, JobId, Needs, WorkerId};
use crate::lane::{Idle, IdleLane, Lane, LaneStatus};
use crate::refusal::SubmitError;
use crate::state::State;
use crate::turn::{Assignment, Turn};

/// Maximum queue length of idle work; the oldest is dropped beyond it.
const MOST_WAITING: usize = 8;

/// Drops of a state after which the work is given up.
const MOST_DROPS: u8 = 3;

/// Time without a job before a worker takes up idle work, because a client that has just been answered may send another
/// request.
pub(crate) const PAUSE: Duration = Duration::from_millis(200);

impl State {
    /// Queues idle work. Returns the work that is dropped for it, if any.
    ///
    /// # Errors
    /// No worker has enough memory for it.
    pub(crate) fn submit_idle(&mut self, job: Job) -> Result<Option<JobId>, SubmitError> {
        crate::admission::fits(self, &job)?;
        self.idle.push_back(Idle { job, drops: 0 });
        Ok(self.give_way())
    }

    /// Removes idle work from the queue or its worker. Returns whether it was found. A turn in progress for it is
    /// interrupted, see [`State::preempted`].
    pub(crate) fn cancel_idle(&mut self, id: JobId) -> bool {
        let waiting = self.idle.len();
        self.idle.retain(|idle| idle.job.id != id);
        let held = self.lanes.iter_mut().find(|lane| lane.idle.held.is_some_and(|idle| idle.job.id == id));
        let is_held = held.is_some();
        held.into_iter().for_each(|lane| _ = lane.drop_idle());
        is_held || self.idle.len() < waiting
    }

    /// Removes all idle work.
    pub(crate) fn cancel_all_idle(&mut self) -> Vec<JobId> {
        let held = self.lanes.iter_mut().filter_map(|lane| lane.drop_idle());
        let held: Vec<_> = held.chain(self.idle.drain(..)).map(|idle| idle.job.id).collect();
        held
    }

    /// Makes workers drop the state of idle work that their next turns for jobs leave no memory for. Returns the work
    /// that is given up because of it.
    pub(crate) fn make_room(&mut self, assignments: &mut [(WorkerId, Assignment)]) -> Vec<JobId> {
        let mut gone = Vec::new();
        for (worker, Assignment { drop, turn }) in assignments {
            let lane = &self.lanes[*worker];
            let (Some(turn), Some(idle)) = (turn, lane.idle.held) else { continue };
            let budget = lane.budget(&self.config).map(|budget| budget.saturating_sub(lane.kept));
            let needed = needed(lane, turn, &self.waiting).saturating_add(idle.job.cost.memory.state);
            if needed > lane.memory.most(budget) {
                drop.push(idle.job.id);
                self.lanes[*worker].idle.held = None;
                gone.extend(self.begin_again(idle));
            }
        }
        gone
    }

    /// Handles a turn of `jobs` that ran out of memory. If the worker holds the state of idle work, it drops that
    /// first, and the turn is retried unchanged. Returns `None` if no such state was held, and otherwise the work that
    /// is given up, if any.
    pub(crate) fn ran_out_beside_idle(&mut self, worker: WorkerId, jobs: &[Job]) -> Option<Option<JobId>> {
        let idle = self.lanes[worker].drop_idle()?;
        jobs.iter().filter(|job| job.needs == Needs::Encode).for_each(|job| self.put_back(job.id));
        Some(self.begin_again(idle))
    }

    /// The next turns of idle work, for workers that have had no job for a moment, if no job is queued.
    pub(crate) fn assign_idle(&self, now: Duration) -> Vec<(WorkerId, Assignment)> {
        let mut line = self.idle.iter();
        let rest = self.lanes.iter().enumerate().filter(|(_, lane)| self.may_idle(lane, now));
        let turn = |(worker, lane): (WorkerId, &Lane)| {
            let Idle { job, .. } = lane.idle.held.as_ref().or_else(|| line.next())?;
            let turn = match job.needs {
                Needs::Encode => Turn::Encode(job.id),
                Needs::Step | Needs::Preview => Turn::Step(vec![job.id]),
                Needs::Decode => Turn::Decode(job.id),
            };
            Some((worker, Assignment { drop: Vec::new(), turn: Some(turn) }))
        };
        rest.filter_map(turn).collect()
    }

    /// Records what [`State::assign_idle`] decided.
    pub(crate) fn assigned_idle(&mut self, assignments: &[(WorkerId, Assignment)]) {
        for (worker, _) in assignments {
            let lane = &mut self.lanes[*worker];
            lane.status = LaneStatus::Busy;
            lane.idle.is_at_work = true;
            lane.idle.held = lane.idle.held.or_else(|| self.idle.pop_front());
        }
    }

    /// The time at which the next worker has rested long enough for the idle work in hand.
    pub(crate) fn next_idle(&self, now: Duration) -> Option<Duration> {
        let rested = |lane: &Lane| lane.idle.rests_since + PAUSE;
        let resting = self.lanes.iter().filter(|lane| !self.idle.is_empty() || lane.idle.held.is_some());
        let resting = resting.filter(|lane| rested(lane) > now && self.may_idle(lane, rested(lane)));
        resting.map(rested).min()
    }

    /// The workers whose turn of idle work must end, because jobs wait or the work was given up.
    pub(crate) fn preempted(&self) -> Vec<WorkerId> {
        let is_wanted = !self.waiting.is_empty() || self.config.shared_processor && !self.is_at_rest();
        let ends = |lane: &Lane| lane.idle.is_at_work && (is_wanted || lane.idle.held.is_none());
        let lanes = self.lanes.iter().enumerate().filter(|(_, lane)| ends(lane));
        lanes.map(|(worker, _)| worker).collect()
    }

    /// Records a successful turn of idle work. Returns whether it was the last; the work is then removed from the
    /// books.
    pub(crate) fn idled(&mut self, worker: WorkerId) -> bool {
        let Some(Idle { job, .. }) = &mut self.lanes[worker].idle.held else { return false };
        match job.needs {
            Needs::Encode => job.needs = Needs::Step,
            Needs::Step | Needs::Preview => {
                job.steps_left -= 1;
                job.needs = if job.steps_left == 0 { Needs::Decode } else { Needs::Step };
            }
            Needs::Decode => {
                self.lanes[worker].idle.held = None;
                return true;
            }
        }
        false
    }

    /// Records that the worker lost its pipeline. Idle work in its turn may be the cause and is given up.
    pub(crate) fn idle_lost(&mut self, worker: WorkerId) -> Option<JobId> {
        let IdleLane { held, is_at_work, .. } = std::mem::take(&mut self.lanes[worker].idle);
        match (held?, is_at_work) {
            (idle, true) => Some(idle.job.id),
            (idle, false) => self.begin_again(idle),
        }
    }

    /// Whether there is no job in hand.
    fn is_at_rest(&self) -> bool {
        self.jobs().next().is_none()
    }

    fn may_idle(&self, lane: &Lane, now: Duration) -> bool {
        let is_fit = !lane.health.wants_trial() && lane.health.shunned_until(now).is_none();
        let is_free = lane.status == LaneStatus::Idle && lane.running.is_empty() && lane.cancelled.is_empty();
        let is_quiet = self.waiting.is_empty() && (!self.config.shared_processor || self.is_at_rest());
        is_fit && is_free && is_quiet && now >= lane.idle.rests_since + PAUSE
    }

    /// Requeues idle work whose state is gone, before all other. Returns the work that is given up because of it.
    fn begin_again(&mut self, idle: Idle) -> Option<JobId> {
        let drops = idle.drops + 1;
        if drops >= MOST_DROPS {
            return Some(idle.job.id);
        }
        self.idle.push_front(Idle { job: idle.job.whole(), drops });
        self.give_way()
    }

    /// Drops the oldest idle work if the queue is too long.
    fn give_way(&mut self) -> Option<JobId> {
        (self.idle.len() > MOST_WAITING).then(|| self.idle.pop_front())?.map(|idle| idle.job.id)
    }
}

impl Lane {
    /// Removes the lane's idle work; the worker drops the state at its next turn.
    fn drop_idle(&mut self) -> Option<Idle> {
        let idle = self.idle.held.take()?;
        self.cancelled.push(idle.job.id);
        Some(idle)
    }
}

/// Maximum bytes that a lane's jobs need during this turn and the turns that follow.
fn needed(lane: &Lane, turn: &Turn, waiting: &[Job]) -> u64 {
    let encoded = waiting.iter().find(|job| *turn == Turn::Encode(job.id));
    let jobs = || lane.running.iter().chain(encoded);
    let in_step = |job: &&Job| matches!(turn, Turn::Step(ids) if ids.contains(&job.id));
    let states: u64 = jobs().map(|job| job.cost.memory.state).sum();
    let step: u64 = jobs().filter(in_step).map(|job| job.cost.memory.step).sum();
    let peak = jobs().map(|job| job.cost.memory.peak()).max().unwrap_or(0);
    states.saturating_add(step.max(peak))
}

#[cfg(test)]
mod tests;
