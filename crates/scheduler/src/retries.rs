//! Retries: what happens to jobs whose turn failed, and to their worker.
//!
//! No accepted job is lost to the fault of another. A turn that ran out of memory is rolled back and retried with less
//! company: first the job's steps alone, then the job alone on its worker. Jobs whose states are gone are queued again
//! and run from their start. Jobs of a turn in which the pipeline panicked or the device failed are suspects. Suspects
//! step alone from then on, so that a second fault identifies the culprit.

use std::time::Duration;

use crate::booked_job::{Company, Job, JobId, Needs, WorkerId};
use crate::health::Next;
use crate::lane::LaneStatus;
use crate::state::State;

/// Faults after which a job is not retried.
const MOST_FAULTS: u8 = 2;

/// What happens to jobs whose states are gone.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Retried {
    /// Jobs that are queued again.
    pub(crate) again: Vec<JobId>,
    /// Suspects with a second fault. They stay in hand until they are given up.
    pub(crate) refused: Vec<JobId>,
}

impl State {
    /// Records a successful turn. `is_finished` tells whether it was the last of a picture.
    pub(crate) fn went_well(&mut self, worker: WorkerId, is_finished: bool) {
        let lane = &mut self.lanes[worker];
        lane.memory.went_well();
        if is_finished {
            lane.health.finished();
        }
    }

    /// Handles a turn of `jobs` that ran out of memory; the states that it was to step or decode are held as before.
    /// Returns the job, if any, that less company cannot help.
    pub(crate) fn ran_out(&mut self, worker: WorkerId, jobs: &[Job]) -> Option<JobId> {
        let needed = self.lanes[worker].held().saturating_add(needed(jobs));
        let largest = self.largest(jobs)?;
        let lane = &mut self.lanes[worker];
        // Jobs cancelled during the turn were held as well.
        let had_company = lane.running.len() + lane.cancelled.len() > 1;
        if had_company {
            lane.memory.ran_out(needed);
        }
        let job = lane.running.iter_mut().find(|job| job.id == largest)?;
        match (jobs.len() > 1, job.company) {
            (true, company) => job.company = company.max(Company::Held),
            (false, Company::None) => return Some(largest),
            (false, _) if !had_company => return Some(largest),
            (false, _) => job.company = Company::None,
        }
        if job.needs == Needs::Encode {
            self.put_back(largest);
        }
        None
    }

    /// Handles a device failure in a turn of `jobs`, whose states are unusable.
    pub(crate) fn device_failed(&mut self, worker: WorkerId, jobs: &[Job], now: Duration) -> Retried {
        self.lanes[worker].health.failed(now, self.config.backoff);
        let retried = self.suspect(worker, jobs);
        self.lanes[worker].cancelled.extend(&retried.again);
        retried
    }

    /// Records that the worker lost its pipeline and every state. If it was in a turn, the jobs of that turn are
    /// suspects.
    pub(crate) fn pipeline_lost(&mut self, worker: WorkerId, next: Next, now: Duration) -> Retried {
        let at_work = std::mem::take(&mut self.lanes[worker].at_work);
        let mut retried = self.suspect(worker, &at_work);
        let lane = &mut self.lanes[worker];
        lane.cancelled.clear();
        lane.kept = 0;
        lane.status = match next {
            Next::Load(after) => LaneStatus::Resting(now + after),
            Next::Lose => LaneStatus::Lost,
        };
        let held: Vec<_> = lane.running.iter().map(|job| job.id).filter(|id| !retried.refused.contains(id)).collect();
        held.iter().for_each(|&id| self.put_back(id));
        retried.again.extend(held);
        retried
    }

    /// Returns the workers whose reload is due, and marks them as loading.
    pub(crate) fn reloads(&mut self, now: Duration) -> Vec<WorkerId> {
        let is_due = |status| matches!(status, LaneStatus::Resting(until) if until <= now);
        let due = self.lanes.iter_mut().enumerate().filter(|(_, lane)| is_due(lane.status));
        due.map(|(worker, lane)| {
            lane.status = LaneStatus::Loading;
            worker
        })
        .collect()
    }

    /// Returns the idle workers due for a trial, with the states that they may drop, and marks them as busy.
    pub(crate) fn trials(&mut self) -> Vec<(WorkerId, Vec<JobId>)> {
        let is_due = |lane: &crate::lane::Lane| lane.status == LaneStatus::Idle && lane.health.wants_trial();
        let due = self.lanes.iter_mut().enumerate().filter(|(_, lane)| is_due(lane));
        due.map(|(worker, lane)| {
            lane.status = LaneStatus::Busy;
            (worker, std::mem::take(&mut lane.cancelled))
        })
        .collect()
    }

    /// Time of the next timer event: a deadline, a reload, the end of a worker's backoff, or the start of idle work.
    pub(crate) fn next_alarm(&self, now: Duration) -> Option<Duration> {
        let of_lane = |lane: &crate::lane::Lane| match lane.status {
            LaneStatus::Resting(until) => Some(until),
            LaneStatus::Idle if !self.waiting.is_empty() => lane.health.shunned_until(now),
            _ => None,
        };
        self.lanes.iter().filter_map(of_lane).chain(self.next_deadline()).chain(self.next_idle(now)).min()
    }

    /// Whether another worker could take new jobs.
    pub(crate) fn has_fit_peer(&self, worker: WorkerId, now: Duration) -> bool {
        self.lanes.iter().enumerate().any(|(other, lane)| {
            let works = matches!(lane.status, LaneStatus::Idle | LaneStatus::Busy);
            other != worker && works && lane.health.shunned_until(now).is_none()
        })
    }

    /// Queues the `jobs` that are still in hand again as suspects; refuses those that were suspects before.
    fn suspect(&mut self, worker: WorkerId, jobs: &[Job]) -> Retried {
        let mut retried = Retried::default();
        for Job { id, .. } in jobs {
            let Some(job) = self.lanes[worker].running.iter_mut().find(|job| job.id == *id) else { continue };
            job.faults += 1;
            if job.faults >= MOST_FAULTS {
                retried.refused.push(*id);
            } else {
                retried.again.push(*id);
                self.put_back(*id);
            }
        }
        retried
    }

    /// Moves a running job back to the queue, to run from its start.
    pub(crate) fn put_back(&mut self, id: JobId) {
        for lane in &mut self.lanes {
            if let Some(position) = lane.running.iter().position(|job| job.id == id) {
                let job = lane.running.remove(position).whole();
                let position = self.waiting.partition_point(|other| other.id < id);
                self.waiting.insert(position, job);
            }
        }
    }

    /// Of the turn's jobs still in hand, the one that needs most memory; the youngest of equals.
    fn largest(&self, jobs: &[Job]) -> Option<JobId> {
        let in_hand = |job: &&Job| self.jobs().any(|other| other.id == job.id);
        let size = |job: &&Job| (job.cost.memory.alone(), job.cost.tokens, job.id);
        jobs.iter().filter(in_hand).max_by_key(size).map(|job| job.id)
    }
}

/// Bytes that a turn of these jobs needs beside all states.
fn needed(jobs: &[Job]) -> u64 {
    let of_job = |job: &Job| match job.needs {
        Needs::Encode => job.cost.memory.encode,
        Needs::Step => job.cost.memory.step,
        Needs::Preview | Needs::Decode => job.cost.memory.decode,
    };
    jobs.iter().map(of_job).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SchedulerConfig;
    use crate::policy::assign;
    use crate::testing::{TICK, books, cost};
    use crate::turn::Turn;

    /// Books of `n_workers` workers and `n_jobs` small jobs.
    fn busy(n_workers: usize, n_jobs: u64) -> State {
        let mut state = books(SchedulerConfig::default(), n_workers);
        let job = |id| Job::new(id, cost(16, 3), crate::JobOptions::default(), Duration::ZERO);
        state.submit((0..n_jobs).map(job).collect()).unwrap();
        state
    }

    /// Assigns and returns the next turn of the only worker.
    fn turn(state: &mut State) -> Option<Turn> {
        let assignments = assign(state, TICK);
        state.assigned(&assignments);
        assignments.into_iter().next().and_then(|(_, assignment)| assignment.turn)
    }

    /// Encodes all jobs, and returns the jobs of the step that follows.
    fn stepping(state: &mut State) -> Vec<JobId> {
        loop {
            match turn(state).unwrap() {
                Turn::Encode(id) => {
                    state.turned(0);
                    state.encoded(id, 1.0, TICK);
                }
                Turn::Step(ids) => return ids,
                Turn::Preview(id) | Turn::Decode(id) => panic!("{id} only steps"),
            }
        }
    }

    #[test]
    fn mates_of_a_panic_run_again_alone_and_the_second_panic_tells_whose_it_was() {
        let mut state = busy(1, 3);
        assert_eq!(stepping(&mut state), [0, 1, 2]);
        let retried = state.pipeline_lost(0, Next::Load(Duration::ZERO), TICK);
        assert_eq!(retried, Retried { again: vec![0, 1, 2], refused: vec![] });
        assert_eq!(state.waiting.len(), 3);
        assert_eq!(state.reloads(TICK), [0]);
        state.loaded(0, None);
        assert_eq!(stepping(&mut state), [0], "alone");
        let retried = state.pipeline_lost(0, Next::Load(Duration::ZERO), TICK);
        assert_eq!(retried, Retried { again: vec![], refused: vec![0] });
        state.cancel(0);
        state.reloads(TICK);
        state.loaded(0, None);
        assert_eq!(stepping(&mut state), [1], "and so do the others, of whom nothing is known yet");
    }

    #[test]
    fn who_is_held_while_another_panics_is_no_suspect() {
        let mut state = busy(1, 2);
        stepping(&mut state);
        let jobs = state.turned(0);
        // The second job was not part of the turn.
        state.lanes[0].at_work = jobs[..1].to_vec();
        state.pipeline_lost(0, Next::Load(Duration::ZERO), TICK);
        assert_eq!(state.waiting.iter().map(|job| job.faults).collect::<Vec<_>>(), [1, 0]);
    }

    #[test]
    fn a_failed_step_puts_its_jobs_back_and_their_states_are_dropped() {
        let mut state = busy(1, 2);
        stepping(&mut state);
        let jobs = state.turned(0);
        let retried = state.device_failed(0, &jobs, TICK);
        assert_eq!(retried.again, [0, 1]);
        assert_eq!(state.lanes[0].cancelled, [0, 1]);
        let again = assign(&state, TICK);
        assert_eq!(again[0].1.drop, [0, 1], "before one of them is encoded again");
        assert_eq!(again[0].1.turn, Some(Turn::Encode(0)));
    }

    #[test]
    fn a_worker_that_failed_is_shunned_while_another_can_work() {
        let mut state = busy(2, 2);
        state.lanes[0].health.failed(TICK, state.config.backoff);
        let workers = |state: &State, now| assign(state, now).iter().map(|(worker, _)| *worker).collect::<Vec<_>>();
        assert_eq!(workers(&state, TICK), [1]);
        assert_eq!(state.next_alarm(TICK), Some(TICK * 2));
        assert_eq!(workers(&state, TICK * 2), [0, 1]);
        state.lanes[1].status = LaneStatus::Loading;
        assert_eq!(workers(&state, TICK), [0], "nobody else can");
    }

    #[test]
    fn failures_in_a_row_are_followed_by_a_trial() {
        let mut state = busy(1, 1);
        (0..3).for_each(|_| state.lanes[0].health.failed(TICK, state.config.backoff));
        assert_eq!(state.trials(), [(0, vec![])]);
        assert_eq!(state.lanes[0].status, LaneStatus::Busy);
        assert_eq!(assign(&state, TICK), [], "nothing else meanwhile");
    }

    #[test]
    fn a_load_is_due_at_its_time() {
        let mut state = busy(1, 1);
        state.pipeline_lost(0, Next::Load(TICK * 3), TICK);
        assert_eq!((state.reloads(TICK * 3), state.next_alarm(TICK)), (vec![], Some(TICK * 4)));
        assert_eq!(state.reloads(TICK * 4), [0]);
        assert_eq!(state.reloads(TICK * 4), [] as [usize; 0], "once");
    }

    #[test]
    fn a_step_that_ran_out_is_tried_with_ever_less_company() {
        let mut state = busy(1, 2);
        assert_eq!(stepping(&mut state), [0, 1]);
        let jobs = state.turned(0);
        assert_eq!(state.ran_out(0, &jobs), None);
        assert_eq!(state.lanes[0].running[1].company, Company::Held, "the youngest of equals");
        // The other job steps alone too, because nobody may join it.
        assert_eq!(turn(&mut state), Some(Turn::Step(vec![0])));
        let jobs = state.turned(0);
        assert_eq!(state.ran_out(0, &jobs), None);
        assert_eq!(state.lanes[0].running[0].company, Company::None);
        assert_eq!(turn(&mut state), Some(Turn::Step(vec![1])), "until it is done");
        let jobs = state.turned(0);
        assert_eq!(state.ran_out(0, &jobs), None);
        assert_eq!(turn(&mut state), Some(Turn::Step(vec![0])), "now that both wait for each other");
        let jobs = state.turned(0);
        assert_eq!(state.ran_out(0, &jobs), Some(0));
    }

    #[test]
    fn an_encoding_that_ran_out_waits_for_a_worker_of_its_own() {
        let mut state = busy(1, 1);
        assert_eq!(stepping(&mut state), [0]);
        state.turned(0);
        state.submit(vec![Job::new(1, cost(16, 1), crate::JobOptions::default(), TICK)]).unwrap();
        assert_eq!(turn(&mut state), Some(Turn::Encode(1)));
        let jobs = state.turned(0);
        assert_eq!(state.ran_out(0, &jobs), None);
        assert_eq!(turn(&mut state), Some(Turn::Step(vec![0])));
        state.turned(0);
        state.cancel(0);
        assert_eq!(turn(&mut state), Some(Turn::Encode(1)));
        let jobs = state.turned(0);
        assert_eq!(state.ran_out(0, &jobs), Some(1), "there was nothing else");
    }
}
