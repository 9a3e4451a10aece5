//! The scheduler's decisions without workers, clock or threads, for simulations of arrivals.

use std::time::Duration;

use diffusion::{RequestCost, StepReport};

use crate::booked_job::{Job, JobId, WorkerId};
use crate::calibration::Calibration;
use crate::config::{JobOptions, SchedulerConfig};
use crate::policy;
use crate::refusal::SubmitError;
use crate::state::State;
use crate::turn::Turn;

/// The scheduler's books, driven by a simulation instead of workers. Times count from its start.
#[derive(Debug)]
pub struct DryRun {
    state: State,
}

/// Measured times of the devices.
#[derive(Clone, Debug, Default)]
pub struct MeasuredTimes {
    /// (load, seconds) of steps, smallest load first.
    pub steps: Vec<(f64, f64)>,
    /// Seconds to encode a request.
    pub encode: f64,
    /// Seconds to decode a token.
    pub decode_per_token: f64,
}

impl DryRun {
    /// Starts with `n_workers` identical workers, all ready.
    pub fn new(config: SchedulerConfig, n_workers: usize, times: MeasuredTimes) -> Self {
        let mut state = State::new(config, n_workers);
        let (encode, decode) = (vec![(1.0, times.encode)], vec![(1.0, times.decode_per_token)]);
        state.cost.calibrate(&Calibration { steps: times.steps, encode, decode, ..Calibration::default() });
        (0..n_workers).for_each(|worker| state.loaded(worker, None));
        DryRun { state }
    }

    /// Advances the time to `now`.
    pub fn advance(&mut self, now: Duration) {
        self.state.advance(now);
    }

    /// Queues a job.
    ///
    /// # Errors
    /// The bound that the job exceeds.
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

    /// Gives each free worker its next turn, if there is one. The jobs of a step are sorted by id.
    pub fn assign(&mut self, now: Duration) -> Vec<(WorkerId, Turn)> {
        let assignments = policy::assign(&self.state, now);
        self.state.assigned(&assignments);
        assignments.into_iter().filter_map(|(worker, assignment)| Some((worker, sorted(assignment.turn?)))).collect()
    }

    /// Ends a worker's turn. `shares` holds the share of the blocks that each job of a step computed.
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

    /// Queues a job of idle work, for when the workers have nothing else to do.
    ///
    /// # Errors
    /// The job needs more memory than any worker has.
    pub fn submit_idle(&mut self, id: JobId, cost: RequestCost) -> Result<(), SubmitError> {
        self.state.submit_idle(Job::new(id, cost, JobOptions::default(), self.state.now)).map(drop)
    }

    /// The time at which a worker may take up idle work, if no event comes first.
    pub fn next_idle(&self, now: Duration) -> Option<Duration> {
        self.state.next_idle(now)
    }

    /// Gives each worker that has nothing else to do its next turn of idle work.
    pub fn assign_idle(&mut self, now: Duration) -> Vec<(WorkerId, Turn)> {
        let assignments = self.state.assign_idle(now);
        self.state.assigned_idle(&assignments);
        assignments.into_iter().filter_map(|(worker, assignment)| Some((worker, assignment.turn?))).collect()
    }

    /// The workers that should interrupt their idle work.
    pub fn preempted(&self) -> Vec<WorkerId> {
        self.state.preempted()
    }

    /// Ends a worker's turn of idle work. Returns whether its job is done.
    pub fn idled(&mut self, worker: WorkerId, was_interrupted: bool) -> bool {
        self.state.turned(worker);
        !was_interrupted && self.state.idled(worker)
    }
}

/// Sorts a step's jobs as a worker lays out its batch.
fn sorted(mut turn: Turn) -> Turn {
    if let Turn::Step(ids) = &mut turn {
        ids.sort_unstable();
    }
    turn
}
