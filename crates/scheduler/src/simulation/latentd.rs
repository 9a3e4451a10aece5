//! Our own policy: the books and the assignments of the crate itself.

use std::time::Duration;

use diffusion::StepReport;

use super::engine::Contender;
use super::scenario::Scenario;
use super::trace::Arrival;
use crate::calibration::Calibration;
use crate::config::{JobOptions, SchedulerConfig};
use crate::policy::{self, Turn};
use crate::state::{Job, JobId, State, WorkerId};

pub(super) struct Latentd {
    state: State,
}

impl Latentd {
    pub(super) fn new(scenario: &Scenario) -> Self {
        let config =
            SchedulerConfig { max_batch: scenario.max_batch, max_waiting: usize::MAX, ..SchedulerConfig::default() };
        let mut state = State::new(config, scenario.devices);
        let device = &scenario.device;
        let steps = device.calibration.iter().map(|&load| (load, device.seconds(load))).collect();
        let (encode, decode) = (Some(device.encode), Some(device.decode_per_token));
        state.cost.calibrate(&Calibration { steps, encode, decode });
        (0..scenario.devices).for_each(|worker| state.loaded(worker));
        Latentd { state }
    }
}

impl Contender for Latentd {
    fn advance(&mut self, now: Duration) {
        self.state.advance(now);
    }

    fn arrive(&mut self, id: usize, arrival: &Arrival, now: Duration) {
        let job = Job::new(id as JobId, arrival.cost, JobOptions::default(), now);
        self.state.submit(vec![job]).expect("no bound is set. This is a bug.");
    }

    fn assign(&mut self, now: Duration) -> Vec<(WorkerId, Turn)> {
        let assignments = policy::assign(&self.state, now);
        self.state.assigned(&assignments);
        assignments.into_iter().filter_map(|(worker, assignment)| Some((worker, sorted(assignment.turn?)))).collect()
    }

    fn turned(&mut self, worker: WorkerId, turn: &Turn, shares: &[f64], took: Duration) {
        let jobs = self.state.turned(worker);
        match turn {
            Turn::Encode(id) => self.state.encoded(*id, took),
            Turn::Step(_) => {
                let report = |&computed_share| StepReport { step_index: 0, runs: Vec::new(), computed_share };
                self.state.stepped(&jobs, &shares.iter().map(report).collect::<Vec<_>>(), took);
            }
            Turn::Decode(id) => self.state.decoded(*id, took),
        }
    }
}

/// A step in the order in which a worker lays it out.
fn sorted(mut turn: Turn) -> Turn {
    if let Turn::Step(ids) = &mut turn {
        ids.sort_unstable();
    }
    turn
}
