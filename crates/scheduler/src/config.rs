//! What a scheduler is told: its bounds, who watches it, and how a job differs from others.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::backoff::Backoff;
use crate::observer::Observer;

/// How much a scheduler takes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// Most jobs that one worker holds at a time, at least 1. How many step together is up to the
    /// cost model.
    pub max_batch: usize,
    /// Most jobs that wait in line; one submission into an empty line may exceed it.
    pub max_waiting: usize,
    /// Longest predicted time to finish everything in hand at which jobs are still taken; an empty
    /// line takes one submission more.
    pub max_backlog: Option<Duration>,
    /// Most bytes of device memory that the jobs of one worker may hold, by their estimates; without it, what is free
    /// once the model is loaded, where the device tells ([`diffusion::Pipeline::free_bytes`]).
    pub memory_budget: Option<u64>,
    /// Longest that a job may take from its submission to its answer, and the deadline of one
    /// without a deadline of its own.
    pub max_deadline: Option<Duration>,
    /// Whether [`JobOptions::priority`] counts.
    pub priorities: bool,
    /// Whether the workers compute on one processor, so that idle work waits until none of them has a job.
    pub shared_processor: bool,
    /// Longest that one of the workers measures its pipeline before it takes jobs.
    pub calibration: Duration,
    /// How long a worker waits that fails: before it loads its model again, and until it is given new jobs that
    /// another can take.
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

/// Whatever [`Scheduler::spawn`](crate::Scheduler::spawn) is told.
#[derive(Clone, Default)]
pub struct SpawnOptions {
    /// The bounds.
    pub config: SchedulerConfig,
    /// Who is shown what happens.
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

/// The priorities that a job may have; those outside are taken as the nearest.
pub const PRIORITIES: RangeInclusive<i8> = -10..=10;

/// How a job differs from others with the same request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobOptions {
    /// Jobs of higher priority go first, whatever else speaks for the others.
    pub priority: i8,
    /// Whose job it is, for instance a hash of the API key: owners share the workers fairly.
    pub owner: u64,
    /// How soon the answer is needed, from now.
    pub deadline: Option<Duration>,
    /// Whether the answer has the [latents](crate::Generated::latents).
    pub latents: bool,
}
