//! Our own policy: the scheduler itself, without workers.

use std::time::Duration;

use diffusion::RequestCost;
use scheduler::{DryRun, JobId, MeasuredTimes, SchedulerConfig, Turn, WorkerId};

use super::engine::{AGAIN, Contender};
use super::scenario::Scenario;
use super::trace::Arrival;

/// How soon a request is needed.
type DeadlineOf = Box<dyn Fn(&RequestCost) -> Option<Duration>>;

pub(super) struct Latentd {
    scheduler: DryRun,
    deadline: DeadlineOf,
    refused: Vec<usize>,
    /// Whether every request is done again once it is finished.
    audits: bool,
    /// The requests in the trace: one that is done again has its number after theirs.
    arrived: Vec<RequestCost>,
    audited: usize,
}

impl Latentd {
    pub(super) fn new(scenario: &Scenario) -> Self {
        Latentd::with_deadlines(scenario, |_| None)
    }

    /// Requests are needed as soon as `deadline` says, and refused where that is not foreseen.
    pub(super) fn with_deadlines(
        scenario: &Scenario,
        deadline: impl Fn(&RequestCost) -> Option<Duration> + 'static,
    ) -> Self {
        let config =
            SchedulerConfig { max_batch: scenario.max_batch, max_waiting: usize::MAX, ..SchedulerConfig::default() };
        let device = &scenario.device;
        let steps = device.calibration.iter().map(|&load| (load, device.seconds(load))).collect();
        let times = MeasuredTimes { steps, encode: device.encode, decode_per_token: device.decode_per_token };
        let scheduler = DryRun::new(config, scenario.devices, times);
        let deadline = Box::new(deadline);
        Latentd { scheduler, deadline, refused: Vec::new(), audits: false, arrived: Vec::new(), audited: 0 }
    }
}

#[cfg(test)]
impl Latentd {
    /// Does every request again, computing all of it, while there is nothing else to do.
    pub(super) fn with_audits(self) -> Self {
        Latentd { audits: true, ..self }
    }

    /// Requests that were done again.
    pub(super) fn audited(&self) -> usize {
        self.audited
    }

    /// The requests that were not taken.
    pub(super) fn refused(&self) -> &[usize] {
        &self.refused
    }
}

impl Contender for Latentd {
    fn advance(&mut self, now: Duration) {
        self.scheduler.advance(now);
    }

    fn arrive(&mut self, id: usize, arrival: &Arrival, now: Duration) {
        self.arrived.push(arrival.cost);
        let deadline = (self.deadline)(&arrival.cost);
        if self.scheduler.submit(id as JobId, arrival.cost, deadline, now).is_err() {
            self.refused.push(id);
            // It is served all the same, so that what was foreseen can be held against what is.
            let taken = self.scheduler.submit(id as JobId, arrival.cost, None, now);
            taken.expect("no other bound is set. This is a bug.");
        }
    }

    fn assign(&mut self, now: Duration) -> Vec<(WorkerId, Turn)> {
        self.scheduler.assign(now)
    }

    fn turned(&mut self, worker: WorkerId, turn: &Turn, shares: &[f64], took: Duration) {
        self.scheduler.turned(worker, turn, shares, took);
        if let (Turn::Decode(id), true) = (turn, self.audits) {
            let again = self.scheduler.submit_idle(AGAIN + id, self.arrived[*id as usize]);
            again.expect("memory is not bounded. This is a bug.");
        }
    }

    fn alarm(&self, now: Duration) -> Option<Duration> {
        self.scheduler.next_idle(now)
    }

    fn assign_idle(&mut self, now: Duration) -> Vec<(WorkerId, Turn)> {
        self.scheduler.assign_idle(now)
    }

    fn preempted(&self) -> Vec<WorkerId> {
        self.scheduler.preempted()
    }

    fn idled(&mut self, worker: WorkerId, was_interrupted: bool) {
        self.audited += usize::from(self.scheduler.idled(worker, was_interrupted));
    }
}
