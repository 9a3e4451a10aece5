//! A lane: the jobs and the status of one worker.

use std::time::Duration;

use crate::booked_job::{Company, Job, JobId};
use crate::config::SchedulerConfig;
use crate::health::Health;
use crate::memory::MemoryBound;

/// A lane: the jobs and the status of one worker.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) status: LaneStatus,
    /// Running jobs, oldest first.
    pub(crate) running: Vec<Job>,
    /// Cancelled jobs whose state the worker still holds.
    pub(crate) cancelled: Vec<JobId>,
    /// The jobs of the turn in progress, as of its start.
    pub(crate) at_work: Vec<Job>,
    /// Start of that turn.
    pub(crate) turn_began: Duration,
    pub(crate) memory: MemoryBound,
    /// Bytes of device memory that were free once the model was loaded, if the device reports it.
    pub(crate) free: Option<u64>,
    /// Bytes that the pipeline keeps between requests, as last reported.
    pub(crate) kept: u64,
    pub(crate) health: Health,
    pub(crate) idle: IdleLane,
}

impl Lane {
    /// The lane of a worker that loads its model.
    pub(crate) fn new() -> Self {
        Lane {
            status: LaneStatus::Loading,
            running: Vec::new(),
            cancelled: Vec::new(),
            at_work: Vec::new(),
            turn_began: Duration::ZERO,
            memory: MemoryBound::default(),
            free: None,
            kept: 0,
            health: Health::default(),
            idle: IdleLane::default(),
        }
    }

    /// Memory budget in bytes for its jobs and the pipeline's kept memory: the operator's setting, or the free device
    /// memory.
    pub(crate) fn budget(&self, config: &SchedulerConfig) -> Option<u64> {
        config.memory_budget.or(self.free)
    }

    /// Estimated bytes that the states of its jobs hold.
    pub(crate) fn held(&self) -> u64 {
        self.running.iter().map(|job| job.cost.memory.state).sum()
    }

    /// Whether every one of its jobs waits for the others to finish.
    pub(crate) fn is_stuck(&self) -> bool {
        self.running.iter().all(|job| job.company == Company::None)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LaneStatus {
    Loading,
    Idle,
    Busy,
    /// It has no pipeline, and is ordered to load it again at this time.
    Resting(Duration),
    Lost,
}

/// A job of idle work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Idle {
    pub(crate) job: Job,
    /// Number of times that its state was dropped.
    pub(crate) drops: u8,
}

/// The idle work of one worker.
#[derive(Debug, Default)]
pub(crate) struct IdleLane {
    /// The idle work that the worker has started.
    pub(crate) held: Option<Idle>,
    /// Whether the turn in progress is for idle work: what is held, or what was held at its start.
    pub(crate) is_at_work: bool,
    /// End of the worker's last turn for a job.
    pub(crate) rests_since: Duration,
}
