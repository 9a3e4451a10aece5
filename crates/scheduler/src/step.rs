//! Which jobs a step is made of.
//!
//! A step has room while its load is below the budget, from where on more work makes no more
//! throughput: the next job in order joins then, and may fill it over, if together they take less time than
//! one after the other ([`GAIN`]). But company slows a step down, most of all where a small picture is joined
//! by a large one. So a job is joined only while it can afford to: as long as all that it waits for others, at
//! the pace of such steps to its end, comes to no more than [`COMPANY`] times the time that it takes alone, and
//! does not make it miss its deadline. One that has waited longer already is served best by steps that are full.

use std::time::Duration;

use crate::booked_job::Job;
use crate::cost::{CostModel, Estimate};
use crate::ordering::Rank;

/// The waiting that a job puts up with to have company, in times that it takes alone. Chosen by
/// simulation: less makes the longest latencies longer, more the mean and the worst wait.
const COMPANY: f64 = 2.0;

/// What company saves at least, against steps apart, as a share of the step together. Where it saves less, as on
/// a device that small pictures fill, it would only make a small picture wait for large ones.
const GAIN: f64 = 0.07;

/// How much slower a full step may become by a job for which it then costs nothing.
const NOTHING: f64 = 0.02;

/// How much slower a step may become by jobs of a lower priority.
const LOWER_PRIORITY: f64 = 0.1;

/// A step that is being made up.
pub(crate) struct Step<'a> {
    cost: &'a CostModel,
    now: Duration,
    load: f64,
    /// What the steps to come of the same jobs are expected to be, in the mean.
    mean_load: f64,
    /// Bytes that it needs beside all states.
    pub(crate) memory: u64,
    pub(crate) jobs: Vec<(Rank, &'a Job)>,
}

impl<'a> Step<'a> {
    pub(crate) fn new(cost: &'a CostModel, now: Duration) -> Self {
        Step { cost, now, load: 0.0, mean_load: 0.0, memory: 0, jobs: Vec::new() }
    }

    pub(crate) fn add(&mut self, rank: Rank, job: &'a Job) {
        self.load += self.cost.load(job);
        self.mean_load += self.cost.mean_load(job);
        self.memory = self.memory.saturating_add(job.cost.memory.step);
        self.jobs.push((rank, job));
    }

    /// Whether this job, the next in order, has a place; the first always has, and one that steps alone no company.
    pub(crate) fn is_joined_by(&self, rank: &Rank, job: &Job) -> bool {
        let load = self.cost.load(job);
        let (so_far, seconds) = (self.cost.step(self.load), self.cost.step(self.load + load));
        let saves = so_far + self.cost.step(load) >= seconds * (1.0 + GAIN);
        let pays = self.load < self.cost.budget() && saves || seconds <= so_far * (1.0 + NOTHING);
        let delay = self.cost.before_step(job);
        let pace = self.cost.step(self.mean_load + self.cost.mean_load(job));
        let is_alone = job.steps_alone() || self.jobs.iter().any(|(_, mate)| mate.steps_alone());
        self.jobs.is_empty()
            || !is_alone
                && pays
                && seconds <= self.limit(rank)
                && self.jobs.iter().all(|(_, mate)| self.affords(mate, delay, pace))
    }

    /// Most seconds that the step may take with a job of this rank.
    fn limit(&self, rank: &Rank) -> f64 {
        let before = self.jobs.iter().filter(|(other, _)| other.priority < rank.priority);
        let load: f64 = before.map(|(_, job)| self.cost.load(job)).sum();
        if load > 0.0 { self.cost.step(load) * (1.0 + LOWER_PRIORITY) } else { f64::INFINITY }
    }

    /// Whether a job can afford to wait for so many seconds, and then to take its steps at this pace: so many seconds each.
    fn affords(&self, job: &Job, delay: f64, pace: f64) -> bool {
        let slower = delay + job.steps_left as f64 * (pace - self.cost.step(self.cost.mean_load(job)));
        self.puts_up_with(job, slower) && self.is_in_time(job, slower)
    }

    /// Whether a job that waits so many seconds more has not waited too long.
    fn puts_up_with(&self, job: &Job, slower: f64) -> bool {
        let (whole, left) = self.cost.whole_and_left(job);
        let waited = (self.now - job.arrived).saturating_sub(whole.saturating_sub(left)).as_secs_f64();
        let most = COMPANY * whole.as_secs_f64();
        waited > most || waited + slower <= most
    }

    /// Whether a job that waits so many seconds more is done by its deadline; one that would miss it on its own
    /// has nothing to lose.
    fn is_in_time(&self, job: &Job, slower: f64) -> bool {
        let Some(deadline) = job.deadline else { return true };
        let done = self.now + self.cost.alone(job, Estimate::Expected);
        done > deadline || done.as_secs_f64() + slower <= deadline.as_secs_f64()
    }
}
