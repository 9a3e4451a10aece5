//! Who goes first.
//!
//! Jobs of higher priority go before all others. Among those of one priority, the first are those
//! that have waited out their patience, in the order in which it ran out; then come those of the
//! owners who were served least, in coarse levels; then those with least work left.
//!
//! Patience bounds how long a job can be overtaken. It is [`PATIENCE`] times what the job, and
//! whatever its owner had in hand before it, would take; and one job goes before another that has
//! run out of it only if its own ran out earlier. So a job is overtaken by those of its
//! priority only that arrive before its own patience is out, and by any number of later ones not at
//! all. That patience counts the owner's backlog keeps a flood of jobs from one owner from ageing all
//! at once, before the one job of another.

use std::cmp::Reverse;
use std::time::Duration;

use crate::state::{Job, State};

/// How often the time that a job takes may pass before it goes first. Chosen by simulation: less
/// makes the mean latency worse, more the longest waits.
pub(crate) const PATIENCE: f64 = 3.0;

/// A job's place in the order: the least goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    pub(crate) priority: Reverse<i8>,
    pub(crate) age: Age,
    level: u64,
    work: Duration,
    arrived: Duration,
    id: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Age {
    /// Patience ran out, then.
    Aged(Duration),
    Young,
}

/// What ranks depend on besides the job.
pub(crate) struct Ordering<'a> {
    state: &'a State,
    pub(crate) now: Duration,
    /// The least that an owner with jobs in hand was served.
    floor: Duration,
    /// The largest job in hand: owners that are less than it apart count as served alike.
    quantum: Duration,
}

impl<'a> Ordering<'a> {
    pub(crate) fn new(state: &'a State, now: Duration) -> Self {
        let floor = state.fairness.floor(&state.owners());
        let quantum = state.jobs().map(|job| state.cost.work(&job.whole())).max().unwrap_or_default();
        Ordering { state, now, floor, quantum }
    }

    pub(crate) fn rank(&self, job: &Job) -> Rank {
        let priority = if self.state.config.priorities { job.priority } else { 0 };
        Rank {
            priority: Reverse(priority),
            age: if job.ages_at <= self.now { Age::Aged(job.ages_at) } else { Age::Young },
            level: self.state.fairness.level(job.owner, self.floor, self.quantum),
            work: self.state.cost.work(job),
            arrived: job.arrived,
            id: job.id,
        }
    }
}

/// When the patience of a job runs out that arrives now.
pub(crate) fn ages_at(state: &State, job: &Job) -> Duration {
    let backlog: Duration =
        state.jobs().filter(|other| other.owner == job.owner).map(|other| state.cost.work(other)).sum();
    job.arrived + (state.cost.alone(job) + backlog / state.n_lanes()).mul_f64(PATIENCE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{JobOptions, SchedulerConfig};
    use crate::state::JobId;
    use crate::testing::{TICK, books, cost};

    fn submit(state: &mut State, id: JobId, steps: usize, options: JobOptions, at: u32) {
        state.submit(vec![Job::new(id, cost(64, steps), options, TICK * at)]).unwrap();
    }

    fn owned(owner: u64) -> JobOptions {
        JobOptions { owner, ..JobOptions::default() }
    }

    #[test]
    fn priority_then_age_then_fairness_then_work_then_arrival() {
        let mut state = books(SchedulerConfig::default(), 1);
        // Encoding, steps and decoding: 15, 8, 8, 7 and 105 s.
        submit(&mut state, 0, 10, owned(1), 0);
        submit(&mut state, 1, 3, owned(2), 1);
        submit(&mut state, 2, 3, owned(3), 2);
        submit(&mut state, 3, 2, owned(4), 3);
        submit(&mut state, 4, 100, JobOptions { priority: 1, ..owned(5) }, 4);
        assert_eq!(state.line(TICK * 5), [4, 3, 1, 2, 0]);
        state.fairness.charge(4, TICK * 500);
        assert_eq!(state.line(TICK * 5), [4, 1, 2, 0, 3], "the owner of 3 has had its share");
        assert_eq!(state.line(TICK * 26), [4, 3, 1, 2, 0], "patience of 3 x 7, 8 and 8 s is out at 24, 25 and 26 s");
        assert_eq!(state.line(TICK * 24), [4, 3, 1, 2, 0]);
        assert_eq!(state.line(TICK * 23), [4, 1, 2, 0, 3]);
        state.config.priorities = false;
        assert_eq!(state.line(TICK * 5), [1, 2, 0, 4, 3]);
    }

    #[test]
    fn patience_counts_what_the_owner_has_in_hand() {
        let mut state = books(SchedulerConfig::default(), 1);
        submit(&mut state, 0, 10, owned(1), 0);
        submit(&mut state, 1, 10, owned(1), 0);
        submit(&mut state, 2, 10, owned(2), 1);
        // Each takes 15 s.
        assert_eq!(state.waiting.iter().map(|job| job.ages_at.as_secs()).collect::<Vec<_>>(), [45, 90, 46]);
    }
}
