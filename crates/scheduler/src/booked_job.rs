//! What the policy knows of a job.

use std::time::Duration;

use diffusion::{RequestCost, StepReport};

use crate::config::{JobOptions, PRIORITIES};

/// The number of a job.
pub type JobId = u64;
/// The index of a worker.
pub type WorkerId = usize;

/// What the policy knows of a job.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Job {
    pub(crate) id: JobId,
    pub(crate) cost: RequestCost,
    pub(crate) steps_left: usize,
    /// When it was submitted.
    pub(crate) arrived: Duration,
    /// When its answer is of no use any more.
    pub(crate) deadline: Option<Duration>,
    pub(crate) priority: i8,
    pub(crate) owner: u64,
    pub(crate) needs: Needs,
    /// Previews that it has had, before it began again too: each is drawn once.
    pub(crate) previews_had: usize,
    pub(crate) company: Company,
    /// Turns for it in which the pipeline panicked or the device failed. With one, it is a suspect and steps alone.
    pub(crate) faults: u8,
}

/// What the memory of its worker has room for beside a job, as running out has taught.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Company {
    /// Others step with it.
    Stepping,
    /// Others are held while it has its turns.
    Held,
    /// Nothing else is held.
    None,
}

/// The turn that a job needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    Encode,
    Step,
    /// The picture on the way that is due after its last step.
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

    /// Steps behind it.
    pub(crate) fn steps_taken(&self) -> usize {
        self.cost.steps - self.steps_left
    }

    /// Previews that are still to be drawn, the one that is due included.
    pub(crate) fn previews_left(&self) -> usize {
        let due = usize::from(self.needs == Needs::Preview);
        let behind = self.cost.previews_due(self.steps_taken()).max(self.previews_had);
        self.cost.previews_due(self.cost.steps) - behind + due
    }

    /// A step of it is done.
    pub(crate) fn stepped(&mut self, report: &StepReport) {
        self.steps_left -= 1;
        let taken = self.steps_taken();
        if let Some(known) = &mut self.cost.known {
            known.compute(taken..self.cost.steps.min(taken + report.also_computed));
        }
        self.needs = self.next_need();
    }

    /// What it needs after a step.
    fn next_need(&self) -> Needs {
        let taken = self.steps_taken();
        let behind = self.cost.previews_due(taken - 1).max(self.previews_had);
        match self.cost.previews_due(taken) > behind {
            _ if self.steps_left == 0 => Needs::Decode,
            true => Needs::Preview,
            false => Needs::Step,
        }
    }

    /// The job as it was when it came.
    pub(crate) fn whole(&self) -> Job {
        Job { steps_left: self.cost.steps, needs: Needs::Encode, ..*self }
    }

    /// Whether no other job takes part in its steps.
    pub(crate) fn steps_alone(&self) -> bool {
        self.faults > 0 || self.company > Company::Stepping
    }
}
