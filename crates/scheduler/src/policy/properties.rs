//! What holds whatever comes, ends, fails and crashes.

use diffusion::{PreviewMethod, PreviewTimes, Previews, RequestCost};
use proptest::prelude::*;

use super::*;
use crate::config::{JobOptions, SchedulerConfig};
use crate::testing::{TICK, books, cost, done};

const N_WORKERS: usize = 3;
const CONFIG: SchedulerConfig = SchedulerConfig {
    max_batch: 3,
    max_waiting: 64,
    max_backlog: None,
    memory_budget: Some(100),
    max_deadline: None,
    priorities: true,
    calibration: Duration::ZERO,
};

/// What can happen to the books from outside.
#[derive(Clone, Debug)]
enum Move {
    Submit {
        n: usize,
        cost: RequestCost,
        options: JobOptions,
    },
    Cancel(usize),
    /// The worker's turn ends.
    Finish {
        worker: usize,
        out_of_memory: bool,
    },
    Crash(usize),
    Wait(u32),
}

fn any_move() -> impl Strategy<Value = Move> {
    let request = (1..200_usize, 1..6_usize, 0..100_u64, prop::option::weighted(0.3, 1..3_usize));
    let options = (-2..=2_i8, 0..3_u64);
    let submit = (1..4_usize, request, options).prop_map(|(n, (tokens, steps, bytes, interval), (priority, owner))| {
        let options = JobOptions { priority, owner, deadline: None };
        let times = interval.map(PreviewTimes::Interval);
        let previews = times.map(|times| Previews { method: PreviewMethod::Vae, times });
        Move::Submit { n, cost: RequestCost { bytes, previews, ..cost(tokens, steps) }, options }
    });
    prop_oneof![
        3 => submit,
        1 => (0..60_usize).prop_map(Move::Cancel),
        12 => (0..N_WORKERS, prop::bool::weighted(0.1))
            .prop_map(|(worker, out_of_memory)| Move::Finish { worker, out_of_memory }),
        1 => (0..N_WORKERS).prop_map(Move::Crash),
        4 => (1..20_u32).prop_map(Move::Wait),
    ]
}

/// The books, the workers' turns and what became of the jobs.
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
            Move::Finish { worker, out_of_memory } => {
                if let Some(turn) = self.at_work[worker].take() {
                    let at_work = self.state.lanes[worker].at_work.iter().map(|job| job.id);
                    let failing: Vec<_> = at_work.filter(|_| out_of_memory).collect();
                    let ended = done(&mut self.state, worker, turn, &failing);
                    // The answer to a job that was cancelled meanwhile goes nowhere.
                    let ended: Vec<_> = ended.into_iter().filter(|id| !self.ended.contains(id)).collect();
                    self.ended.extend(ended);
                }
            }
            Move::Crash(worker) => {
                self.at_work[worker] = None;
                self.ended.extend(self.state.emptied(worker, LaneStatus::Loading));
                self.state.loaded(worker);
            }
            Move::Wait(ticks) => {
                self.now += TICK * ticks;
                self.state.advance(self.now);
            }
        }
    }

    fn assign(&mut self) -> Result<(), TestCaseError> {
        let assignments = assign(&self.state, self.now);
        for (worker, assignment) in &assignments {
            prop_assert!(self.at_work[*worker].is_none(), "two turns at once");
            if let Some(turn) = &assignment.turn {
                check_priority(&self.state, *worker, turn, self.now)?;
                check_lag(&self.state, *worker, turn, self.now)?;
            }
        }
        self.state.assigned(&assignments);
        for (worker, assignment) in assignments {
            self.at_work[worker] = Some(assignment.turn);
        }
        for lane in &self.state.lanes {
            prop_assert!(lane.running.len() <= CONFIG.max_batch);
            prop_assert!(lane.running.iter().map(|job| job.cost.bytes).sum::<u64>() <= 100);
            let idles = lane.status == LaneStatus::Idle;
            prop_assert!(!idles || lane.running.is_empty() && self.state.waiting.is_empty(), "{:?}", self.state);
        }
        Ok(())
    }
}

fn stepping(lane: &Lane) -> impl Iterator<Item = &Job> {
    lane.running.iter().filter(|job| matches!(job.needs, Needs::Step | Needs::Preview))
}

/// Whatever is encoded or stepped, the running job of highest priority has its part in it, or what is encoded
/// has at least its priority or will step with it.
fn check_priority(state: &State, worker: WorkerId, turn: &Turn, now: Duration) -> Result<(), TestCaseError> {
    let lane = &state.lanes[worker];
    let highest = stepping(lane).map(|job| job.priority).max();
    if let Turn::Step(ids) = turn {
        let among = stepping(lane).filter(|job| ids.contains(&job.id)).map(|job| job.priority).max();
        prop_assert_eq!(among, highest);
        let fits = |job: &&Job| Room::new(state, lane).fits(job);
        let passed_over = state.waiting.iter().filter(fits).filter(|job| Some(job.priority) > highest);
        // Other workers may take one each, and room may be kept for one that is behind.
        let ordering = Ordering::new(state, now);
        let is_kept = state.waiting.iter().any(|job| !fits(&job) && ordering.rank(job).is_behind());
        prop_assert!(is_kept || passed_over.count() < N_WORKERS, "{state:?}");
    }
    Ok(())
}

/// A job that is behind is not passed over by one that is not, or less.
fn check_lag(state: &State, worker: WorkerId, turn: &Turn, now: Duration) -> Result<(), TestCaseError> {
    let lane = &state.lanes[worker];
    let served: Vec<&Job> = match turn {
        Turn::Step(ids) => stepping(lane).filter(|job| ids.contains(&job.id)).collect(),
        Turn::Encode(id) => state.waiting.iter().filter(|job| job.id == *id).collect(),
        Turn::Preview(id) => stepping(lane).filter(|job| job.id == *id).collect(),
        Turn::Decode(_) => return Ok(()),
    };
    let waits = state.waiting.iter().filter(|_| lane.running.is_empty() || matches!(turn, Turn::Step(_)));
    let passed_over = stepping(lane).filter(|_| matches!(turn, Turn::Step(_))).chain(waits);
    let ordering = Ordering::new(state, now);
    // Where there is no room for one that is behind, it is kept, and those that have theirs go on.
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

    /// Every accepted job ends once: in a decoding, a cancellation, a crash or for want of memory. Places,
    /// memory, priority and shares are kept, and no worker idles while there is work.
    #[test]
    fn every_job_ends_once_whatever_happens(moves in prop::collection::vec(any_move(), 0..300)) {
        let mut world = World::new();
        let finish = (0..6000).map(|i| Move::Finish { worker: i % N_WORKERS, out_of_memory: false });
        for one in moves.into_iter().chain(finish) {
            world.happen(one);
            world.assign()?;
        }
        world.ended.sort_unstable();
        prop_assert_eq!(world.ended, world.accepted);
    }
}
