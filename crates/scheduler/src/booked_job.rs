//! A job in the books: what the policy knows of it.

use std::time::Duration;

use diffusion::{RequestCost, StepReport};

use crate::config::{JobOptions, PRIORITIES};

/// Unique number of a job.
pub type JobId = u64;
/// Index of a worker.
pub type WorkerId = usize;

/// A job in the books: what the policy knows of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Job {
    pub(crate) id: JobId,
    pub(crate) cost: RequestCost,
    pub(crate) steps_left: usize,
    /// Time of submission.
    pub(crate) arrived: Duration,
    /// Time after which the answer is useless.
    pub(crate) deadline: Option<Duration>,
    pub(crate) priority: i8,
    pub(crate) owner: u64,
    pub(crate) needs: Needs,
    /// Previews drawn so far, including those before a restart: each is drawn once.
    pub(crate) previews_had: usize,
    pub(crate) company: Company,
    /// Number of the job's turns in which the pipeline panicked or the device failed. From the first on, the job is a
    /// suspect and steps alone.
    pub(crate) faults: u8,
}

/// What may share the worker's memory with a job, learnt from running out of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Company {
    /// Other jobs may step with it.
    Stepping,
    /// Other states may be held, but its turns are its own.
    Held,
    /// No other state may be held.
    None,
}

/// The next turn that a job needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    Encode,
    Step,
    /// The preview that is due after its last step.
    Preview,
    Decode,
}

impl Job {
    /// A job submitted at `now`.
    pub(crate) fn new(id: JobId, cost: RequestCost, options: JobOptions, now: Duration) -> Self {
        Job {
            id,
            cost,
            steps_left: cost.steps,
            arrived: now,
            deadline: options.deadline.map(|from_now| now.saturating_add(from_now)),
            priority: options.priority.clamp(*PRIORITIES.start(), *PRIORITIES.end()),
            owner: options.owner,
            needs: Needs::Encode,
            previews_had: 0,
            company: Company::Stepping,
            faults: 0,
        }
    }

    /// Number of completed steps.
    pub(crate) fn steps_taken(&self) -> usize {
        self.cost.steps - self.steps_left
    }

    /// Number of previews still to be drawn, including one that is due.
    pub(crate) fn previews_left(&self) -> usize {
        let due = usize::from(self.needs == Needs::Preview);
        let behind = self.cost.previews_due(self.steps_taken()).max(self.previews_had);
        self.cost.previews_due(self.cost.steps) - behind + due
    }

    /// Records a completed step.
    pub(crate) fn stepped(&mut self, report: &StepReport) {
        self.steps_left -= 1;
        let taken = self.steps_taken();
        if let Some(known) = &mut self.cost.known {
            known.compute(taken..self.cost.steps.min(taken + report.also_computed));
        }
        self.needs = self.next_need();
    }

    /// The next turn after a step.
    fn next_need(&self) -> Needs {
        let taken = self.steps_taken();
        let behind = self.cost.previews_due(taken - 1).max(self.previews_had);
        match self.cost.previews_due(taken) > behind {
            _ if self.steps_left == 0 => Needs::Decode,
            true => Needs::Preview,
            false => Needs::Step,
        }
    }

    /// The job reset to its start.
    pub(crate) fn whole(&self) -> Job {
        Job { steps_left: self.cost.steps, needs: Needs::Encode, ..*self }
    }

    /// Whether no other job may share its steps.
    pub(crate) fn steps_alone(&self) -> bool {
        self.faults > 0 || self.company > Company::Stepping
    }
}
