//! The scheduler's decisions without workers, clock or threads, for whoever plays arrivals against them.

use std::time::Duration;

use diffusion::{RequestCost, StepReport};

use crate::booked_job::{Job, JobId, WorkerId};
use crate::calibration::Calibration;
use crate::config::{JobOptions, SchedulerConfig};
use crate::policy;
use crate::refusal::SubmitError;
use crate::state::State;
use crate::turn::Turn;

/// The scheduler's books, filled by a simulation instead of by workers. Times count from its beginning.
#[derive(Debug)]
pub struct DryRun {
    state: State,
}

/// What the devices were measured to take.
#[derive(Clone, Debug, Default)]
pub struct MeasuredTimes {
    /// Loads of a step and their seconds, from the smallest.
    pub steps: Vec<(f64, f64)>,
    /// Seconds to encode a request.
    pub encode: f64,
    /// Seconds to decode a token.
    pub decode_per_token: f64,
}

impl DryRun {
    /// Starts with `n_workers` workers that are ready, and alike.
    pub fn new(config: SchedulerConfig, n_workers: usize, times: MeasuredTimes) -> Self {
        let mut state = State::new(config, n_workers);
        let (encode, decode) = (vec![(1.0, times.encode)], vec![(1.0, times.decode_per_token)]);
        state.cost.calibrate(&Calibration { steps: times.steps, encode, decode, ..Calibration::default() });
        (0..n_workers).for_each(|worker| state.loaded(worker, None));
        DryRun { state }
    }

    /// Moves the time on.
    pub fn advance(&mut self, now: Duration) {
        self.state.advance(now);
    }

    /// Puts a job in line.
    ///
    /// # Errors
    /// The bound that it exceeds.
    pub fn submit(
        &mut self,
        id: JobId,
        cost: RequestCost,
        deadline: Option<Duration>,
        now: Duration,
    ) -> Result<(), SubmitError> {
        let options = JobOptions { deadline, ..JobOptions::default() };
        self.state.submit(vec![Job::new(id, cost, options, now)])
    }

    /// Gives each free worker its next turn, if there is one. The jobs of a step are in the order of their numbers.
    pub fn assign(&mut self, now: Duration) -> Vec<(WorkerId, Turn)> {
        let assignments = policy::assign(&self.state, now);
        self.state.assigned(&assignments);
        assignments.into_iter().filter_map(|(worker, assignment)| Some((worker, sorted(assignment.turn?)))).collect()
    }

    /// Ends a worker's turn. `shares` are the shares of their blocks that the jobs of a step computed.
    pub fn turned(&mut self, worker: WorkerId, turn: &Turn, shares: &[f64], took: Duration) {
        let jobs = self.state.turned(worker);
        match turn {
            Turn::Encode(id) => self.state.encoded(*id, 1.0, took),
            Turn::Preview(id) => self.state.previewed(*id, Some(took)),
            Turn::Step(_) => {
                let report =
                    |&computed_share| StepReport { step_index: 0, runs: Vec::new(), computed_share, also_computed: 0 };
                self.state.stepped(&jobs, &shares.iter().map(report).collect::<Vec<_>>(), took);
            }
            Turn::Decode(id) => self.state.decoded(*id, took),
        }
    }

    /// Keeps a job for when the workers have nothing else to do.
    ///
    /// # Errors
    /// It needs more memory than there is.
    pub fn submit_idle(&mut self, id: JobId, cost: RequestCost) -> Result<(), SubmitError> {
        self.state.submit_idle(Job::new(id, cost, JobOptions::default(), self.state.now)).map(drop)
    }

    /// When a worker may take up idle work, if nothing happens before.
    pub fn next_idle(&self, now: Duration) -> Option<Duration> {
        self.state.next_idle(now)
    }

    /// Gives each worker that has nothing else to do its next turn of idle work.
    pub fn assign_idle(&mut self, now: Duration) -> Vec<(WorkerId, Turn)> {
        let assignments = self.state.assign_idle(now);
        self.state.assigned_idle(&assignments);
        assignments.into_iter().filter_map(|(worker, assignment)| Some((worker, assignment.turn?))).collect()
    }

    /// The workers that are to interrupt their idle work.
    pub fn preempted(&self) -> Vec<WorkerId> {
        self.state.preempted()
    }

    /// Ends a worker's turn of idle work, and returns whether its job is done.
    pub fn idled(&mut self, worker: WorkerId, was_interrupted: bool) -> bool {
        self.state.turned(worker);
        !was_interrupted && self.state.idled(worker)
    }
}

/// A step in the order in which a worker lays it out.
fn sorted(mut turn: Turn) -> Turn {
    if let Turn::Step(ids) = &mut turn {
        ids.sort_unstable();
    }
    turn
}
