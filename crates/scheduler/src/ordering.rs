//! The order of jobs.
//!
//! Jobs of higher priority go before all others. Within a priority, the job with the least remaining work goes first.
//! Its work is multiplied by the number of jobs that its owner has in hand, so that many jobs of one owner do not shut
//! out the few of another.
//!
//! That alone would starve large pictures. So jobs that are *behind* go first: those that have waited [`PATIENCE`]
//! times the time that they take alone, and have been served less than their share of evenly shared workers
//! (`sharing`). The job that is behind by the largest fraction of its own time is first. The fraction is compared in
//! whole eighths; within an eighth the job with the least work goes first and finishes, instead of taking turns.
//! However many small jobs come, a job among n in hand takes little more than n times as long as alone.

use std::cmp::Reverse;
use std::time::Duration;

use crate::booked_job::{Job, JobId};
use crate::cost::{CostModel, Estimate};
use crate::sharing::Sharing;
use crate::state::State;

/// Waiting time before a job may be behind, as a multiple of its time alone. Chosen by simulation: less lengthens the
/// longest waits at low load, more makes the share of large jobs less even at high load.
const PATIENCE: f64 = 2.5;

/// A job's rank in the order; the smallest goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    pub(crate) priority: Reverse<i8>,
    /// Eighths of its own time by which the job trails its share; `None` goes last.
    behind: Reverse<Option<u64>>,
    work: Duration,
    arrived: Duration,
    id: JobId,
}

impl Rank {
    /// Whether the job has waited long and received less than its share.
    pub(crate) fn is_behind(&self) -> bool {
        self.behind.0.is_some()
    }
}

/// The context that ranks depend on besides the job.
pub(crate) struct Ordering<'a> {
    pub(crate) now: Duration,
    cost: &'a CostModel,
    priorities: bool,
    sharing: Sharing,
}

impl<'a> Ordering<'a> {
    /// The order of the jobs in hand.
    pub(crate) fn new(state: &'a State, now: Duration) -> Self {
        Ordering::with(state, &[], now)
    }

    /// The order of the jobs in hand and of `more` that arrive now.
    pub(crate) fn with(state: &'a State, more: &[Job], now: Duration) -> Self {
        let mut sharing = state.sharing.clone();
        sharing.advance(now, state.n_lanes());
        more.iter().for_each(|job| sharing.join(job.id, job.owner));
        Ordering { now, cost: &state.cost, priorities: state.config.priorities, sharing }
    }

    pub(crate) fn rank(&self, job: &Job) -> Rank {
        let n_jobs = u32::try_from(self.sharing.n_jobs(job.owner)).unwrap_or(u32::MAX);
        Rank {
            priority: Reverse(if self.priorities { job.priority } else { 0 }),
            behind: Reverse(self.behind(job)),
            work: self.cost.work(job, Estimate::Expected).saturating_mul(n_jobs),
            arrived: job.arrived,
            id: job.id,
        }
    }

    fn behind(&self, job: &Job) -> Option<u64> {
        let (whole, left) = self.cost.whole_and_left(job);
        let served = whole.saturating_sub(left);
        let waited = self.now.saturating_sub(job.arrived + served);
        let lag = self.sharing.share(job.id, job.owner).saturating_sub(served);
        let is_behind = waited >= whole.mul_f64(PATIENCE) && lag > Duration::ZERO;
        is_behind.then(|| (lag.as_secs_f64() / whole.as_secs_f64() * 8.0) as u64)
    }
}

impl State {
    /// The queue, in the order in which it would be served now.
    pub(crate) fn line(&self, now: Duration) -> Vec<JobId> {
        let ordering = Ordering::new(self, now);
        let mut line: Vec<_> = self.waiting.iter().map(|job| (ordering.rank(job), job.id)).collect();
        line.sort_unstable();
        line.into_iter().map(|(_, id)| id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::booked_job::Needs;
    use crate::config::{JobOptions, SchedulerConfig};
    use crate::testing::{TICK, books, cost};

    fn submit(state: &mut State, id: JobId, steps: usize, options: JobOptions, at: u32) {
        state.advance(TICK * at);
        state.submit(vec![Job::new(id, cost(64, steps), options, TICK * at)]).unwrap();
    }

    fn owned(owner: u64) -> JobOptions {
        JobOptions { owner, ..JobOptions::default() }
    }

    #[test]
    fn priority_then_least_work_then_arrival() {
        let mut state = books(SchedulerConfig::default(), 1);
        // Encoding, steps and decoding: 15, 8, 8, 7 and 105 s.
        submit(&mut state, 0, 10, owned(1), 0);
        submit(&mut state, 1, 3, owned(2), 1);
        submit(&mut state, 2, 3, owned(3), 2);
        submit(&mut state, 3, 2, owned(4), 3);
        submit(&mut state, 4, 100, JobOptions { priority: 1, ..owned(5) }, 4);
        assert_eq!(state.line(TICK * 5), [4, 3, 1, 2, 0]);
        state.config.priorities = false;
        assert_eq!(state.line(TICK * 5), [3, 1, 2, 0, 4]);
    }

    #[test]
    fn who_is_behind_goes_first_and_who_is_most_is_the_first() {
        let mut state = books(SchedulerConfig::default(), 1);
        submit(&mut state, 0, 10, owned(1), 0);
        submit(&mut state, 1, 3, owned(2), 30);
        // 2.5 times 15 s are 37.5 s.
        assert_eq!(state.line(TICK * 37), [1, 0]);
        assert_eq!(state.line(TICK * 38), [0, 1]);

        let mut state = books(SchedulerConfig::default(), 1);
        submit(&mut state, 0, 10, owned(1), 0);
        submit(&mut state, 1, 12, owned(2), 0);
        // The jobs take 15 and 17 s. Shares of 25 s are 1.67 and 1.47 times that.
        assert_eq!(state.line(TICK * 50), [0, 1]);
        // The first was served for 9 s: it is behind by 1.07 times its whole time.
        (state.waiting[0].needs, state.waiting[0].steps_left) = (Needs::Step, 2);
        assert_eq!(state.line(TICK * 50), [1, 0]);
    }

    #[test]
    fn who_has_had_its_share_is_not_behind_however_long_it_waits() {
        let mut state = books(SchedulerConfig::default(), 1);
        submit(&mut state, 0, 95, owned(1), 0);
        (1..10).for_each(|id| submit(&mut state, id, 95, owned(1), 0));
        // Ten jobs share 300 s. The first takes 100 s and was served for 20 or 40.
        let is_behind = |steps_left| {
            let job = Job { steps_left, ..state.waiting[0] };
            Ordering::new(&state, TICK * 300).rank(&job).is_behind()
        };
        assert!(is_behind(75) && !is_behind(55));
    }

    #[test]
    fn work_counts_as_often_as_its_owner_has_jobs() {
        let mut state = books(SchedulerConfig::default(), 1);
        (0..3).for_each(|id| submit(&mut state, id, 1, owned(1), 0));
        submit(&mut state, 3, 10, owned(2), 1);
        // Three times 6 s, and 15 s.
        assert_eq!(state.line(TICK), [3, 0, 1, 2]);
        state.cancel(2);
        assert_eq!(state.line(TICK), [0, 1, 3]);
    }
}
