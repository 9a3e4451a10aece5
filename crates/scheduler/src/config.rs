//! Scheduler configuration: its bounds, its observer, and the options of a job.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::backoff::Backoff;
use crate::observer::Observer;

/// The bounds of a scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// Maximum number of jobs that one worker holds at a time, at least 1. The cost model decides how many of them step
    /// together.
    pub max_batch: usize,
    /// Maximum number of queued jobs; one submission into an empty queue may exceed it.
    pub max_waiting: usize,
    /// Maximum predicted time to finish everything in hand at which jobs are still accepted; an empty queue accepts one
    /// submission beyond it.
    pub max_backlog: Option<Duration>,
    /// Maximum bytes of device memory that the jobs of one worker may hold, by their estimates. If unset, the memory
    /// that is free once the model is loaded, if the device reports it ([`diffusion::Pipeline::free_bytes`]).
    pub memory_budget: Option<u64>,
    /// Maximum time from a job's submission to its answer. It is the deadline of a job that has none of its own.
    pub max_deadline: Option<Duration>,
    /// Whether [`JobOptions::priority`] counts.
    pub priorities: bool,
    /// Whether the workers share one processor. Idle work then waits until none of them has a job.
    pub shared_processor: bool,
    /// Maximum time that one of the workers measures its pipeline before it takes jobs.
    pub calibration: Duration,
    /// The wait of a failing worker: before it loads its model again, and until it gets new jobs that another worker
    /// could take.
    pub backoff: Backoff,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        SchedulerConfig {
            max_batch: 32,
            max_waiting: 256,
            max_backlog: None,
            memory_budget: None,
            max_deadline: None,
            priorities: true,
            shared_processor: false,
            calibration: Duration::from_secs(5),
            backoff: Backoff::default(),
        }
    }
}

/// The options of [`Scheduler::spawn`](crate::Scheduler::spawn).
#[derive(Clone, Default)]
pub struct SpawnOptions {
    /// The bounds.
    pub config: SchedulerConfig,
    /// The observer of events, if any.
    pub observer: Option<Observer>,
}

impl From<SchedulerConfig> for SpawnOptions {
    fn from(config: SchedulerConfig) -> Self {
        SpawnOptions { config, observer: None }
    }
}

impl fmt::Debug for SpawnOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let observed = self.observer.is_some();
        f.debug_struct("SpawnOptions").field("config", &self.config).field("observed", &observed).finish()
    }
}

/// The range of priorities; values outside are clamped.
pub const PRIORITIES: RangeInclusive<i8> = -10..=10;

/// Options of a job beyond its request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobOptions {
    /// Jobs of higher priority always go first.
    pub priority: i8,
    /// The owner, for instance a hash of the API key. Owners share the workers fairly.
    pub owner: u64,
    /// Time from now within which the answer is needed.
    pub deadline: Option<Duration>,
    /// Whether the answer includes the [latents](crate::Generated::latents).
    pub latents: bool,
}
