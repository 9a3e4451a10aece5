//! Composition of a step: which jobs step together.
//!
//! A step has room while its load is below the budget, beyond which more load adds no throughput. The next job in order
//! then joins, and may exceed the budget, if the joint step takes less time than separate steps ([`GAIN`]). But company
//! slows a step down, most of all if a large picture joins a small one. So each job accepts company only up to a limit:
//! its total waiting for others, with its remaining steps at the slower pace, must not exceed [`COMPANY`] times its
//! time alone, nor make it miss its deadline. A job that has already waited longer is served best by full steps.

use std::time::Duration;

use crate::booked_job::Job;
use crate::cost::{CostModel, Estimate};
use crate::ordering::Rank;

/// Waiting that a job accepts for company, as a multiple of its time alone. Chosen by simulation: less makes the
/// longest latencies longer, more makes the mean and the worst wait longer.
const COMPANY: f64 = 2.0;

/// Minimum saving of a joint step over separate steps, as a share of the joint step. With less, as on a device that
/// small pictures fill, company would only make a small picture wait for large ones.
const GAIN: f64 = 0.07;

/// Slowdown of a full step up to which a further job counts as free.
const NOTHING: f64 = 0.02;

/// Maximum slowdown of a step by jobs of a lower priority.
const LOWER_PRIORITY: f64 = 0.1;

/// A step under construction.
pub(crate) struct Step<'a> {
    cost: &'a CostModel,
    now: Duration,
    load: f64,
    /// Expected mean load of the remaining steps of the same jobs.
    mean_load: f64,
    /// Bytes that the step needs beside all states.
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

    /// Whether this job, the next in order, joins the step. The first job always does; a job that must step alone has
    /// no company.
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

    /// Maximum seconds of the step with a job of this rank.
    fn limit(&self, rank: &Rank) -> f64 {
        let before = self.jobs.iter().filter(|(other, _)| other.priority < rank.priority);
        let load: f64 = before.map(|(_, job)| self.cost.load(job)).sum();
        if load > 0.0 { self.cost.step(load) * (1.0 + LOWER_PRIORITY) } else { f64::INFINITY }
    }

    /// Whether a job can afford a wait of `delay` seconds, and then steps of `pace` seconds each.
    fn affords(&self, job: &Job, delay: f64, pace: f64) -> bool {
        let slower = delay + job.steps_left as f64 * (pace - self.cost.step(self.cost.mean_load(job)));
        self.puts_up_with(job, slower) && self.is_in_time(job, slower)
    }

    /// Whether a further wait of `slower` seconds stays within the job's limit, or the job is past it already.
    fn puts_up_with(&self, job: &Job, slower: f64) -> bool {
        let (whole, left) = self.cost.whole_and_left(job);
        let waited = (self.now - job.arrived).saturating_sub(whole.saturating_sub(left)).as_secs_f64();
        let most = COMPANY * whole.as_secs_f64();
        waited > most || waited + slower <= most
    }

    /// Whether the job still meets its deadline after a further wait of `slower` seconds. A job that would miss it
    /// alone has nothing to lose.
    fn is_in_time(&self, job: &Job, slower: f64) -> bool {
        let Some(deadline) = job.deadline else { return true };
        let done = self.now + self.cost.alone(job, Estimate::Expected);
        done > deadline || done.as_secs_f64() + slower <= deadline.as_secs_f64()
    }
}
