//! The books: who waits, and what each worker has in hand. Plain values; no channels, threads or clock.

use std::collections::VecDeque;
use std::time::Duration;

use diffusion::ImageRequest;

use crate::SchedulerConfig;
use crate::policy::{Assignment, Turn};
use crate::readiness::Load;

pub(crate) type JobId = u64;
pub(crate) type WorkerId = usize;

/// What the policy knows of a job.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Job {
    pub(crate) id: JobId,
    /// Image tokens of one transformer pass.
    pub(crate) tokens: usize,
    /// Transformer passes of one step: two under true classifier-free guidance.
    pub(crate) passes: usize,
    pub(crate) steps_left: usize,
    /// When it was submitted.
    pub(crate) arrived: Duration,
    pub(crate) needs: Needs,
}

/// The turn that a job needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    Encode,
    Step,
    Decode,
}

impl Job {
    pub(crate) fn new(id: JobId, request: &ImageRequest, now: Duration) -> Self {
        Job {
            id,
            tokens: request.params.size.image_seq_len(),
            passes: if request.do_true_cfg() { 2 } else { 1 },
            steps_left: request.params.num_inference_steps,
            arrived: now,
            needs: Needs::Encode,
        }
    }

    /// Tokens that all passes of all steps still to come have together.
    fn tokens_left(&self) -> f64 {
        (self.tokens * self.passes * self.steps_left) as f64
    }
}

/// What one worker has in hand.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) status: LaneStatus,
    /// Jobs taken up, oldest first.
    pub(crate) running: Vec<Job>,
    /// Cancelled jobs whose state the worker still holds.
    pub(crate) cancelled: Vec<JobId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LaneStatus {
    Loading,
    Idle,
    Busy,
    Lost,
}

/// The books of one scheduler.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) config: SchedulerConfig,
    /// Jobs that no lane has taken up, oldest first.
    pub(crate) waiting: VecDeque<Job>,
    pub(crate) lanes: Vec<Lane>,
    /// Observed seconds that a denoising step takes for each of its tokens.
    seconds_per_token: Option<f64>,
}

/// How much a new observation moves `seconds_per_token`: a few dozen steps make an average.
const OBSERVATION_WEIGHT: f64 = 0.05;

impl State {
    pub(crate) fn new(config: SchedulerConfig, n_workers: usize) -> Self {
        let lane = || Lane { status: LaneStatus::Loading, running: Vec::new(), cancelled: Vec::new() };
        State {
            config,
            waiting: VecDeque::new(),
            lanes: (0..n_workers).map(|_| lane()).collect(),
            seconds_per_token: None,
        }
    }

    /// Puts all of `jobs` in line, or none where they would exceed the line's bound. An empty
    /// line takes any number, so that no bound can shut a large request out for ever.
    pub(crate) fn submit(&mut self, jobs: Vec<Job>) -> bool {
        let has_room = self.waiting.is_empty() || self.waiting.len() + jobs.len() <= self.config.max_waiting;
        if has_room {
            self.waiting.extend(jobs);
        }
        has_room
    }

    /// Takes a job out, wherever it is; its worker is told to drop it at the next turn.
    pub(crate) fn cancel(&mut self, id: JobId) {
        for lane in &mut self.lanes {
            if lane.running.iter().any(|job| job.id == id) {
                lane.cancelled.push(id);
            }
        }
        self.ended(id);
    }

    /// Forgets a job that its worker no longer holds.
    pub(crate) fn ended(&mut self, id: JobId) {
        self.waiting.retain(|job| job.id != id);
        for lane in &mut self.lanes {
            lane.running.retain(|job| job.id != id);
        }
    }

    /// The worker has its model and nothing else.
    pub(crate) fn loaded(&mut self, worker: WorkerId) {
        self.lanes[worker].status = LaneStatus::Idle;
    }

    /// The worker's turn is over.
    pub(crate) fn turned(&mut self, worker: WorkerId) {
        self.lanes[worker].status = LaneStatus::Idle;
    }

    pub(crate) fn encoded(&mut self, id: JobId) {
        if let Some(job) = self.running_mut(id) {
            job.needs = Needs::Step;
        }
    }

    /// One step of `ids` is done and took `took`.
    pub(crate) fn stepped(&mut self, ids: &[JobId], took: Duration) {
        let mut tokens = 0;
        for &id in ids {
            if let Some(job) = self.running_mut(id) {
                tokens += job.tokens * job.passes;
                job.steps_left -= 1;
                if job.steps_left == 0 {
                    job.needs = Needs::Decode;
                }
            }
        }
        if tokens > 0 {
            let observed = took.as_secs_f64() / tokens as f64;
            let mean = self.seconds_per_token.get_or_insert(observed);
            *mean += OBSERVATION_WEIGHT * (observed - *mean);
        }
    }

    /// The worker no longer holds anything; what it was running is returned.
    pub(crate) fn emptied(&mut self, worker: WorkerId, status: LaneStatus) -> Vec<JobId> {
        let lane = &mut self.lanes[worker];
        lane.status = status;
        lane.cancelled.clear();
        lane.running.drain(..).map(|job| job.id).collect()
    }

    /// Enters what the policy decided.
    pub(crate) fn assigned(&mut self, assignments: &[(WorkerId, Assignment)]) {
        for (worker, assignment) in assignments {
            let lane = &mut self.lanes[*worker];
            lane.status = LaneStatus::Busy;
            lane.cancelled.clear();
            if let Some(Turn::Encode(id)) = assignment.turn {
                let position = self.waiting.iter().position(|job| job.id == id);
                let job = position.and_then(|i| self.waiting.remove(i));
                lane.running.push(job.expect("only a waiting job is taken up. This is a bug."));
            }
        }
    }

    /// How long the denoising of everything in hand will take, as far as observed steps tell.
    pub(crate) fn predicted_drain(&self) -> Duration {
        let running = self.lanes.iter().flat_map(|lane| &lane.running);
        let tokens_left: f64 = running.chain(&self.waiting).map(Job::tokens_left).sum();
        let n_lanes = self.lanes.iter().filter(|lane| lane.status != LaneStatus::Lost).count().max(1);
        Duration::from_secs_f64(tokens_left * self.seconds_per_token.unwrap_or(0.0) / n_lanes as f64)
    }

    pub(crate) fn load(&self) -> Load {
        Load { waiting: self.waiting.len(), running: self.lanes.iter().map(|lane| lane.running.len()).sum() }
    }

    /// A job that was cancelled during its turn is not found.
    fn running_mut(&mut self, id: JobId) -> Option<&mut Job> {
        self.lanes.iter_mut().flat_map(|lane| &mut lane.running).find(|job| job.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::request;

    fn jobs(ids: std::ops::Range<JobId>) -> Vec<Job> {
        ids.map(|id| Job::new(id, &request(64, 5), Duration::ZERO)).collect()
    }

    #[test]
    fn a_group_is_taken_whole_or_not_at_all() {
        let mut state = State::new(SchedulerConfig { max_batch: 1, max_waiting: 3 }, 1);
        assert!(state.submit(jobs(0..2)));
        assert!(!state.submit(jobs(2..4)), "one of the two would fit");
        assert!(state.submit(jobs(4..5)));
        assert_eq!(state.load(), Load { waiting: 3, running: 0 });
    }

    #[test]
    fn an_empty_line_takes_a_group_of_any_size() {
        let mut state = State::new(SchedulerConfig { max_batch: 1, max_waiting: 1 }, 1);
        assert!(state.submit(jobs(0..10)));
        assert!(!state.submit(jobs(10..11)));
    }

    #[test]
    fn the_drain_is_predicted_from_observed_steps() {
        let mut state = State::new(SchedulerConfig { max_batch: 1, max_waiting: 9 }, 1);
        state.submit(jobs(0..2));
        assert_eq!(state.predicted_drain(), Duration::ZERO, "nothing was observed");
        state.loaded(0);
        state.assigned(&crate::policy::assign(&state));
        state.encoded(0);
        // Two jobs of five steps, one step done: nine steps at half a second.
        state.stepped(&[0], Duration::from_millis(500));
        assert_eq!(state.predicted_drain(), Duration::from_millis(4500));
    }
}
