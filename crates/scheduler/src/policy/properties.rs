//! Invariants of the policy under any sequence of submissions, cancellations, failures and crashes.

use diffusion::{PreviewMethod, PreviewTimes, Previews, RequestCost, RequestMemory};
use proptest::prelude::*;

use super::*;
use crate::backoff::Backoff;
use crate::booked_job::JobId;
use crate::config::{JobOptions, SchedulerConfig};
use crate::health::Next;
use crate::retries::Retried;
use crate::testing::{TICK, books, cost, done, planned};

const N_WORKERS: usize = 3;
/// The first id of idle work.
const IDLE: JobId = 1 << 32;
const CONFIG: SchedulerConfig = SchedulerConfig {
    max_batch: 3,
    max_waiting: 64,
    max_backlog: None,
    memory_budget: Some(100),
    max_deadline: None,
    priorities: true,
    shared_processor: false,
    calibration: Duration::ZERO,
    backoff: Backoff { first: Duration::from_secs(2), most: Duration::from_secs(8) },
};

/// An external event.
#[derive(Clone, Debug)]
enum Move {
    Submit {
        n: usize,
        cost: RequestCost,
        options: JobOptions,
    },
    Cancel(usize),
    SubmitIdle(RequestCost),
    CancelIdle,
    /// The worker's turn ends.
    Finish {
        worker: usize,
        out_of_memory: bool,
    },
    /// The device fails in the worker's turn.
    Fail(usize),
    Crash(usize),
    /// The worker's model does not load.
    NotLoaded(usize),
    Wait(u32),
}

fn any_move() -> impl Strategy<Value = Move> {
    let memory = (0..60_u64, 0..40_u64, 0..40_u64, 0..40_u64).prop_map(|(state, encode, step, decode)| RequestMemory {
        state,
        encode,
        step,
        decode,
    });
    let idle = (1..200_usize, 1..6_usize, memory.clone());
    let idle = idle.prop_map(|(tokens, steps, memory)| RequestCost { memory, ..cost(tokens, steps) });
    let plan = prop::option::weighted(0.3, prop::collection::vec(any::<bool>(), 6));
    let request = (1..200_usize, 1..6_usize, memory, prop::option::weighted(0.3, 1..3_usize), plan);
    let options = (-2..=2_i8, 0..3_u64);
    let submit =
        (1..4_usize, request, options).prop_map(|(n, (tokens, steps, memory, interval, plan), (priority, owner))| {
            let options = JobOptions { priority, owner, ..JobOptions::default() };
            let times = interval.map(PreviewTimes::Interval);
            let previews = times.map(|times| Previews { method: PreviewMethod::Vae, times });
            let whole = RequestCost { memory, previews, ..cost(tokens, steps) };
            let cost = plan.map_or(whole, |plan| planned(whole, &plan[..steps]));
            Move::Submit { n, cost, options }
        });
    prop_oneof![
        3 => submit,
        1 => (0..60_usize).prop_map(Move::Cancel),
        2 => idle.prop_map(Move::SubmitIdle),
        1 => Just(Move::CancelIdle),
        12 => (0..N_WORKERS, prop::bool::weighted(0.1))
            .prop_map(|(worker, out_of_memory)| Move::Finish { worker, out_of_memory }),
        1 => (0..N_WORKERS).prop_map(Move::Fail),
        1 => (0..N_WORKERS).prop_map(Move::Crash),
        1 => (0..N_WORKERS).prop_map(Move::NotLoaded),
        4 => (1..20_u32).prop_map(Move::Wait),
    ]
}

/// The books, the workers' turns and the outcomes of the jobs.
struct World {
    state: State,
    now: Duration,
    at_work: Vec<Option<Option<Turn>>>,
    accepted: Vec<JobId>,
    ended: Vec<JobId>,
}

impl World {
    fn new() -> Self {
        let at_work = vec![None; N_WORKERS];
        World { state: books(CONFIG, N_WORKERS), now: TICK, at_work, accepted: vec![], ended: vec![] }
    }

    #[allow(clippy::too_many_lines, reason = "a table of cases")]
    fn happen(&mut self, one: Move) {
        match one {
            Move::Submit { n, cost, options } => {
                let first = self.accepted.last().map_or(0, |last| last + 1);
                let jobs = (first..).take(n).map(|id| Job::new(id, cost, options, self.now)).collect();
                if self.state.submit(jobs).is_ok() {
                    self.accepted.extend((first..).take(n));
                }
            }
            Move::Cancel(nth) => {
                if let Some(&id) = self.accepted.get(nth).filter(|id| !self.ended.contains(*id)) {
                    self.state.cancel(id);
                    self.ended.push(id);
                }
            }
            Move::SubmitIdle(cost) => {
                let id = IDLE + self.accepted.len() as JobId;
                let _ = self.state.submit_idle(Job::new(id, cost, JobOptions::default(), self.now));
            }
            Move::CancelIdle => drop(self.state.cancel_all_idle()),
            Move::Finish { worker, .. } if self.state.lanes[worker].idle.is_at_work => {
                // An interrupted turn has no effect.
                let is_preempted = self.state.preempted().contains(&worker);
                self.at_work[worker] = None;
                self.state.turned(worker);
                let _is_last = !is_preempted && self.state.idled(worker);
            }
            Move::Finish { worker, out_of_memory } => {
                if let Some(turn) = self.at_work[worker].take() {
                    let at_work = self.state.lanes[worker].at_work.iter().map(|job| job.id);
                    let failing: Vec<_> = at_work.filter(|_| out_of_memory).collect();
                    let ended = done(&mut self.state, worker, turn, &failing);
                    self.state.lanes[worker].health.wants_trial().then(|| self.state.lanes[worker].health.fit());
                    // The answer to a job that was cancelled meanwhile is dropped.
                    let ended: Vec<_> = ended.into_iter().filter(|id| !self.ended.contains(id)).collect();
                    self.ended.extend(ended);
                }
            }
            Move::Fail(worker) => {
                if self.at_work[worker].take().is_some() {
                    let is_idle = self.state.lanes[worker].idle.is_at_work;
                    if let Some(idle) = self.state.lanes[worker].idle.held.filter(|_| is_idle) {
                        self.state.cancel_idle(idle.job.id);
                    }
                    let jobs = self.state.turned(worker);
                    let retried = self.state.device_failed(worker, &jobs, self.now);
                    self.refuse(retried);
                }
            }
            Move::Crash(worker) => {
                if matches!(self.state.lanes[worker].status, LaneStatus::Idle | LaneStatus::Busy) {
                    let next = self.state.lanes[worker].health.broke(CONFIG.backoff);
                    self.break_down(worker, next);
                }
            }
            Move::NotLoaded(worker) => {
                if self.state.lanes[worker].status == LaneStatus::Loading {
                    let next = self.state.lanes[worker].health.did_not_load(CONFIG.backoff);
                    // At least one worker must remain, or no job could end.
                    let is_last = (0..N_WORKERS).all(|other| other == worker || self.is_lost(other));
                    self.break_down(worker, if is_last { Next::Load(TICK) } else { next });
                }
            }
            Move::Wait(ticks) => {
                self.now += TICK * ticks;
                self.state.advance(self.now);
                self.state.reloads(self.now);
            }
        }
    }

    fn is_lost(&self, worker: WorkerId) -> bool {
        self.state.lanes[worker].status == LaneStatus::Lost
    }

    fn break_down(&mut self, worker: WorkerId, next: Next) {
        self.at_work[worker] = None;
        self.state.idle_lost(worker);
        let retried = self.state.pipeline_lost(worker, next, self.now);
        self.refuse(retried);
    }

    fn refuse(&mut self, retried: Retried) {
        retried.refused.iter().for_each(|&id| self.state.cancel(id));
        self.ended.extend(retried.refused);
    }

    /// Completes the load of every loading worker.
    fn load(&mut self) {
        for worker in 0..N_WORKERS {
            if self.state.lanes[worker].status == LaneStatus::Loading {
                self.state.loaded(worker, None);
            }
        }
    }

    fn assign(&mut self) -> Result<(), TestCaseError> {
        let mut assignments = assign(&self.state, self.now);
        let encoded = |assignment: &Assignment| match assignment.turn {
            Some(Turn::Encode(id)) => Some(id),
            _ => None,
        };
        for (worker, assignment) in &assignments {
            let others = assignments.iter().filter(|(other, _)| other != worker);
            let taken: Vec<JobId> = others.filter_map(|(_, assignment)| encoded(assignment)).collect();
            prop_assert!(self.at_work[*worker].is_none(), "two turns at once");
            if let Some(turn) = &assignment.turn {
                check_priority(&self.state, *worker, turn, self.now)?;
                check_lag(&self.state, *worker, turn, &taken, self.now)?;
            }
        }
        self.state.make_room(&mut assignments);
        self.state.assigned(&assignments);
        let idle = self.state.assign_idle(self.now);
        self.state.assigned_idle(&idle);
        for (worker, assignment) in assignments.into_iter().chain(idle) {
            prop_assert!(self.at_work[worker].is_none(), "two turns at once");
            self.at_work[worker] = Some(assignment.turn);
        }
        check_idle(&self.state)?;
        for (worker, lane) in self.state.lanes.iter().enumerate() {
            prop_assert!(lane.running.len() <= CONFIG.max_batch);
            let memory = || lane.running.iter().map(|job| job.cost.memory);
            let states: u64 = memory().map(|memory| memory.state).sum();
            prop_assert!(states + memory().map(|memory| memory.peak()).max().unwrap_or(0) <= 100);
            let is_step = lane.at_work.len() > 1;
            let steps: u64 = lane.at_work.iter().map(|job| job.cost.memory.step).sum();
            prop_assert!(!is_step || states + steps <= 100, "{:?}", self.state);
            prop_assert!(!is_step || lane.at_work.iter().all(|job| !job.steps_alone()), "{:?}", self.state);
            let idles = lane.status == LaneStatus::Idle;
            let has_work = !lane.running.is_empty()
                || !is_shunned(&self.state, worker, self.now) && !self.state.waiting.is_empty();
            prop_assert!(!idles || !has_work, "{:?}", self.state);
        }
        Ok(())
    }
}

/// Idle work runs only while there is no job, ends for queued jobs, and never holds memory that jobs need.
fn check_idle(state: &State) -> Result<(), TestCaseError> {
    prop_assert!(state.idle.len() <= 8);
    for (worker, lane) in state.lanes.iter().enumerate() {
        prop_assert!(!lane.idle.is_at_work || lane.running.is_empty() && lane.at_work.is_empty(), "{state:?}");
        let is_preempted = state.preempted().contains(&worker);
        prop_assert!(!lane.idle.is_at_work || state.waiting.is_empty() || is_preempted, "{state:?}");
        let held = lane.idle.held.map_or(0, |idle| idle.job.cost.memory.state);
        let steps: u64 = lane.at_work.iter().map(|job| job.cost.memory.step).sum();
        let busy = lane.status == LaneStatus::Busy && !lane.running.is_empty();
        let states: u64 = lane.running.iter().map(|job| job.cost.memory.state).sum();
        // A step of a single job may exceed the learnt bound.
        prop_assert!(!busy || held == 0 || held + states + steps <= 100, "{state:?}");
    }
    Ok(())
}

/// Whether the worker gets no new jobs.
fn is_shunned(state: &State, worker: WorkerId, now: Duration) -> bool {
    state.lanes[worker].health.shunned_until(now).is_some() && state.has_fit_peer(worker, now)
}

/// Whether the turn is a step that the plans of all its jobs skip: it delays nobody.
fn takes_no_time(state: &State, worker: WorkerId, turn: &Turn) -> bool {
    let Turn::Step(ids) = turn else { return false };
    let mut jobs = state.lanes[worker].running.iter().filter(|job| ids.contains(&job.id));
    jobs.all(|job| is_free(state, job))
}

/// Every step includes a running job of the highest priority, and passes over fewer queued jobs of higher priority that
/// fit than there are workers.
fn check_priority(state: &State, worker: WorkerId, turn: &Turn, now: Duration) -> Result<(), TestCaseError> {
    let lane = &state.lanes[worker];
    let highest = stepping(lane).map(|job| job.priority).max();
    if is_shunned(state, worker, now) || takes_no_time(state, worker, turn) {
        return Ok(());
    }
    if let Turn::Step(ids) = turn {
        let among = stepping(lane).filter(|job| ids.contains(&job.id)).map(|job| job.priority).max();
        prop_assert_eq!(among, highest);
        let fits = |job: &&Job| Room::new(state, lane).fits(job);
        let passed_over = state.waiting.iter().filter(fits).filter(|job| Some(job.priority) > highest);
        // Other workers may take one each, and room may be reserved for a job that is behind.
        let ordering = Ordering::new(state, now);
        let is_kept = state.waiting.iter().any(|job| !fits(&job) && ordering.rank(job).is_behind());
        prop_assert!(is_kept || passed_over.count() < N_WORKERS, "{state:?}");
    }
    Ok(())
}

/// A job that is behind is not passed over by one that is less behind or not at all. Jobs in `taken` go to other
/// workers.
fn check_lag(
    state: &State,
    worker: WorkerId,
    turn: &Turn,
    taken: &[JobId],
    now: Duration,
) -> Result<(), TestCaseError> {
    if takes_no_time(state, worker, turn) {
        return Ok(());
    }
    let lane = &state.lanes[worker];
    let served: Vec<&Job> = match turn {
        Turn::Step(ids) => stepping(lane).filter(|job| ids.contains(&job.id)).collect(),
        Turn::Encode(id) => state.waiting.iter().filter(|job| job.id == *id).collect(),
        Turn::Preview(id) => stepping(lane).filter(|job| job.id == *id).collect(),
        Turn::Decode(_) => return Ok(()),
    };
    let waits = state.waiting.iter().filter(|_| lane.running.is_empty() || matches!(turn, Turn::Step(_)));
    let waits = waits.filter(|job| !is_shunned(state, worker, now) && !taken.contains(&job.id));
    let passed_over = stepping(lane).filter(|_| matches!(turn, Turn::Step(_))).chain(waits);
    let ordering = Ordering::new(state, now);
    // Without room for a job that is behind, free room is reserved for it, and jobs with a place go on.
    let behind = |job: &&Job| ordering.rank(job).is_behind();
    let kept = state.waiting.iter().any(|job| behind(&job) && !Room::new(state, lane).fits(job));
    let goes_on = |job: &Job| matches!(turn, Turn::Step(_)) && job.needs == Needs::Encode && kept;
    let behind = passed_over.filter(behind).filter(|job| !goes_on(job));
    for passed in behind.filter(|job| served.iter().all(|other| other.id != job.id)) {
        for other in served.iter().filter(|other| other.priority <= passed.priority) {
            prop_assert!(ordering.rank(other) <= ordering.rank(passed), "{other:?} before {passed:?}");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Every accepted job ends once: by decoding, by cancellation, by its second fault or for lack of memory. Places,
    /// memory, priority and shares hold, suspects step alone, and no worker idles while there is work for it.
    #[test]
    fn every_job_ends_once_whatever_happens(moves in prop::collection::vec(any_move(), 0..300)) {
        let mut world = World::new();
        let finish = (0..9000).map(|i| match i % (N_WORKERS + 1) {
            N_WORKERS => Move::Wait(1),
            worker => Move::Finish { worker, out_of_memory: false },
        });
        for (i, one) in moves.into_iter().chain(finish).enumerate() {
            world.happen(one);
            if i % 2 == 0 {
                world.load();
            }
            world.assign()?;
        }
        world.ended.sort_unstable();
        prop_assert_eq!(world.ended, world.accepted);
    }
}
