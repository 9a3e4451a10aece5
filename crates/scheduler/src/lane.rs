//! What one worker has in hand.

use std::time::Duration;

use crate::booked_job::{Company, Job, JobId};
use crate::config::SchedulerConfig;
use crate::health::Health;
use crate::memory::MemoryBound;

/// What one worker has in hand.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) status: LaneStatus,
    /// Jobs taken up, oldest first.
    pub(crate) running: Vec<Job>,
    /// Cancelled jobs whose state the worker still holds.
    pub(crate) cancelled: Vec<JobId>,
    /// The jobs of the turn that the worker is at, as they were when it began.
    pub(crate) at_work: Vec<Job>,
    /// When that turn began.
    pub(crate) turn_began: Duration,
    pub(crate) memory: MemoryBound,
    /// Bytes of its device that were free once the model was loaded, if the device tells.
    pub(crate) free: Option<u64>,
    /// Bytes that its pipeline keeps whatever it runs, as it said last.
    pub(crate) kept: u64,
    pub(crate) health: Health,
    pub(crate) idle: IdleLane,
}

impl Lane {
    /// A worker that loads its model.
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

    /// Bytes that its jobs and what is kept beside them may take: as the operator says, or what is free.
    pub(crate) fn budget(&self, config: &SchedulerConfig) -> Option<u64> {
        config.memory_budget.or(self.free)
    }

    /// The memory that the states of its jobs are estimated to hold, in bytes.
    pub(crate) fn held(&self) -> u64 {
        self.running.iter().map(|job| job.cost.memory.state).sum()
    }

    /// Whether each of its jobs waits for the others to be gone.
    pub(crate) fn is_stuck(&self) -> bool {
        self.running.iter().all(|job| job.company == Company::None)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LaneStatus {
    Loading,
    Idle,
    Busy,
    /// It has no pipeline and is told to load it again at this time.
    Resting(Duration),
    Lost,
}

/// A piece of idle work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Idle {
    pub(crate) job: Job,
    /// How often its state was dropped.
    pub(crate) drops: u8,
}

/// The idle work of one worker.
#[derive(Debug, Default)]
pub(crate) struct IdleLane {
    /// What it has taken up.
    pub(crate) held: Option<Idle>,
    /// Whether the turn under way is for it, or for what was held when the turn began.
    pub(crate) is_at_work: bool,
    /// When the worker had its last turn for a job.
    pub(crate) rests_since: Duration,
}
