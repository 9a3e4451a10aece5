//! Our own policy: the books and the assignments of the crate itself.

use std::time::Duration;

use diffusion::{RequestCost, StepReport};

use super::engine::{AGAIN, Contender};
use super::scenario::Scenario;
use super::trace::Arrival;
use crate::booked_job::{Job, JobId, WorkerId};
use crate::calibration::Calibration;
use crate::config::{JobOptions, SchedulerConfig};
use crate::policy;
use crate::state::State;
use crate::turn::Turn;

/// How soon a request is needed.
type DeadlineOf = Box<dyn Fn(&RequestCost) -> Option<Duration>>;

pub(super) struct Latentd {
    state: State,
    deadline: DeadlineOf,
    refused: Vec<usize>,
    /// Whether every request is done again once it is finished.
    audits: bool,
    /// The requests in the trace: who is done again has its number after theirs.
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
        let mut state = State::new(config, scenario.devices);
        let device = &scenario.device;
        let steps = device.calibration.iter().map(|&load| (load, device.seconds(load))).collect();
        let (encode, decode) = (vec![(1.0, device.encode)], vec![(1.0, device.decode_per_token)]);
        state.cost.calibrate(&Calibration { steps, encode, decode, ..Calibration::default() });
        (0..scenario.devices).for_each(|worker| state.loaded(worker, None));
        let deadline = Box::new(deadline);
        Latentd { state, deadline, refused: Vec::new(), audits: false, arrived: Vec::new(), audited: 0 }
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
        self.state.advance(now);
    }

    fn arrive(&mut self, id: usize, arrival: &Arrival, now: Duration) {
        let options = JobOptions { deadline: (self.deadline)(&arrival.cost), ..JobOptions::default() };
        let mut job = Job::new(id as JobId, arrival.cost, options, now);
        self.arrived.push(arrival.cost);
        if self.state.submit(vec![job]).is_err() {
            self.refused.push(id);
            // It is served all the same, so that what was foreseen can be held against what is.
            job.deadline = None;
            self.state.submit(vec![job]).expect("no other bound is set. This is a bug.");
        }
    }

    fn assign(&mut self, now: Duration) -> Vec<(WorkerId, Turn)> {
        let assignments = policy::assign(&self.state, now);
        self.state.assigned(&assignments);
        assignments.into_iter().filter_map(|(worker, assignment)| Some((worker, sorted(assignment.turn?)))).collect()
    }

    fn turned(&mut self, worker: WorkerId, turn: &Turn, shares: &[f64], took: Duration) {
        let jobs = self.state.turned(worker);
        match turn {
            Turn::Encode(id) => self.state.encoded(*id, 1.0, took),
            Turn::Preview(id) => self.state.previewed(*id, Some(took)),
            Turn::Step(_) => {
                let report =
                    |&computed_share| StepReport { step_index: 0, runs: Vec::new(), computed_share, also_computed: 0 };
                self.state.stepped(&jobs, &shares.iter().map(report).collect::<Vec<_>>(), took);
            }
            Turn::Decode(id) => {
                self.state.decoded(*id, took);
                if self.audits {
                    let cost = self.arrived[*id as usize];
                    let again = Job::new(AGAIN + id, cost, JobOptions::default(), self.state.now);
                    self.state.submit_idle(again).expect("memory is not bounded. This is a bug.");
                }
            }
        }
    }

    fn alarm(&self, now: Duration) -> Option<Duration> {
        self.state.next_idle(now)
    }

    fn assign_idle(&mut self, now: Duration) -> Vec<(WorkerId, Turn)> {
        let assignments = self.state.assign_idle(now);
        self.state.assigned_idle(&assignments);
        assignments.into_iter().filter_map(|(worker, assignment)| Some((worker, assignment.turn?))).collect()
    }

    fn preempted(&self) -> Vec<WorkerId> {
        self.state.preempted()
    }

    fn idled(&mut self, worker: WorkerId, was_interrupted: bool) {
        self.state.turned(worker);
        self.audited += usize::from(!was_interrupted && self.state.idled(worker));
    }
}

/// A step in the order in which a worker lays it out.
fn sorted(mut turn: Turn) -> Turn {
    if let Turn::Step(ids) = &mut turn {
        ids.sort_unstable();
    }
    turn
}
