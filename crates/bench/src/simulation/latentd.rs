//! latentd's own policy: the real scheduler, without workers.

use std::time::Duration;

use diffusion::RequestCost;
use scheduler::{DryRun, JobId, MeasuredTimes, SchedulerConfig, Turn, WorkerId};

use super::engine::{AGAIN, Contender};
use super::scenario::Scenario;
use super::trace::Arrival;

/// The deadline of a request, if it has one.
type DeadlineOf = Box<dyn Fn(&RequestCost) -> Option<Duration>>;

pub(super) struct Latentd {
    scheduler: DryRun,
    deadline: DeadlineOf,
    refused: Vec<usize>,
    /// Whether every finished request is audited, i.e. done again.
    audits: bool,
    /// The costs of the requests that have arrived, by id.
    arrived: Vec<RequestCost>,
    audited: usize,
}

impl Latentd {
    pub(super) fn new(scenario: &Scenario) -> Self {
        Latentd::with_deadlines(scenario, |_| None)
    }

    /// A policy in which requests have deadlines. A request is refused if its deadline is predicted to be missed.
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
    /// Enables audits: idle devices do every request again and compute all of it.
    pub(super) fn with_audits(self) -> Self {
        Latentd { audits: true, ..self }
    }

    /// Number of requests that were audited.
    pub(super) fn audited(&self) -> usize {
        self.audited
    }

    /// The requests that were refused.
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
            // A refused request is served anyway, to compare the prediction with its true time.
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
