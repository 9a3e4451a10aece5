//! The books: queued jobs, and the jobs of each worker. Plain values; no channels, threads or clock.

use std::collections::VecDeque;
use std::time::Duration;

use diffusion::{PreviewMethod, RequestCost, StepReport};

use crate::booked_job::{Job, JobId, Needs, WorkerId};
use crate::config::SchedulerConfig;
use crate::cost::{CostModel, Estimate};
use crate::lane::{Idle, Lane, LaneStatus};
use crate::readiness::Load;
use crate::sharing::Sharing;
use crate::turn::{Assignment, Turn};

/// A running job is given up only if it would be late even at this multiple of the lower-bound speed.
const HASTE: u32 = 2;

/// The books of one scheduler.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) config: SchedulerConfig,
    pub(crate) now: Duration,
    /// Queued jobs, oldest first.
    pub(crate) waiting: Vec<Job>,
    /// Queued idle work, oldest first. It does not count as jobs in hand.
    pub(crate) idle: VecDeque<Idle>,
    pub(crate) lanes: Vec<Lane>,
    pub(crate) cost: CostModel,
    pub(crate) sharing: Sharing,
}

impl State {
    pub(crate) fn new(config: SchedulerConfig, n_workers: usize) -> Self {
        State {
            config,
            now: Duration::ZERO,
            waiting: Vec::new(),
            idle: VecDeque::new(),
            lanes: (0..n_workers).map(|_| Lane::new()).collect(),
            cost: CostModel::default(),
            sharing: Sharing::default(),
        }
    }

    /// All jobs in hand, running and queued.
    pub(crate) fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.lanes.iter().flat_map(|lane| &lane.running).chain(&self.waiting)
    }

    /// Number of workers that are not lost, at least 1.
    pub(crate) fn n_lanes(&self) -> u32 {
        let n_lanes = self.lanes.iter().filter(|lane| lane.status != LaneStatus::Lost).count();
        n_lanes.max(1) as u32
    }

    /// Advances the time. Call it before anything else that happens at `now`.
    pub(crate) fn advance(&mut self, now: Duration) {
        self.now = now;
        self.sharing.advance(now, self.n_lanes());
    }

    /// Removes a job from the queue or its worker. The worker drops its state at the next turn.
    pub(crate) fn cancel(&mut self, id: JobId) {
        for lane in &mut self.lanes {
            if lane.running.iter().any(|job| job.id == id) {
                lane.cancelled.push(id);
            }
        }
        self.ended(id);
    }

    /// Removes a job whose state its worker no longer holds.
    pub(crate) fn ended(&mut self, id: JobId) {
        self.sharing.leave(id);
        self.waiting.retain(|job| job.id != id);
        for lane in &mut self.lanes {
            lane.running.retain(|job| job.id != id);
        }
    }

    /// Records that the worker has loaded its model. `free` is the free device memory in bytes.
    pub(crate) fn loaded(&mut self, worker: WorkerId, free: Option<u64>) {
        let lane = &mut self.lanes[worker];
        lane.status = LaneStatus::Idle;
        lane.free = free;
        lane.health.fit();
        lane.idle.rests_since = self.now;
    }

    /// Ends the worker's turn and returns its jobs.
    pub(crate) fn turned(&mut self, worker: WorkerId) -> Vec<Job> {
        let lane = &mut self.lanes[worker];
        lane.status = LaneStatus::Idle;
        if !std::mem::take(&mut lane.idle.is_at_work) {
            lane.idle.rests_since = self.now;
        }
        std::mem::take(&mut lane.at_work)
    }

    /// Records that the job is encoded. `work` was computed for it and took `took`.
    pub(crate) fn encoded(&mut self, id: JobId, work: f64, took: Duration) {
        self.cost.observe_encode(work, took);
        if let Some(job) = self.running_mut(id) {
            job.needs = Needs::Step;
        }
    }

    /// Updates the job's cost as its worker estimates it. Plans may have changed since submission.
    pub(crate) fn prepared(&mut self, id: JobId, cost: RequestCost) {
        if let Some(job) = self.running_mut(id) {
            job.cost = cost;
        }
    }

    /// Records a step of `jobs` that took `took`, with one report per job.
    pub(crate) fn stepped(&mut self, jobs: &[Job], reports: &[StepReport], took: Duration) {
        let mut load = 0.0;
        for (job, report) in jobs.iter().zip(reports) {
            load += job.cost.step_work(report.computed_share);
            self.cost.observe_share(&job.cost, report.computed_share);
            if let Some(job) = self.running_mut(job.id) {
                job.stepped(report);
            }
        }
        self.cost.observe_step(load, took);
    }

    /// The preview method of a running job.
    pub(crate) fn preview_method(&self, id: JobId) -> PreviewMethod {
        let previews = self.jobs().find(|job| job.id == id).and_then(|job| job.cost.previews);
        previews.map_or(PreviewMethod::default(), |previews| previews.method)
    }

    /// Records a preview of the job that took `took`; `None` if it failed.
    pub(crate) fn previewed(&mut self, id: JobId, took: Option<Duration>) {
        let Some(job) = self.running_mut(id) else { return };
        job.needs = Needs::Step;
        job.previews_had = job.cost.previews_due(job.steps_taken());
        let cost = job.cost;
        took.into_iter().for_each(|took| self.cost.observe_preview(&cost, took));
    }

    /// Records that the job was decoded in `took`; its worker no longer holds it.
    pub(crate) fn decoded(&mut self, id: JobId, took: Duration) {
        if let Some(job) = self.running_mut(id) {
            let cost = job.cost;
            self.cost.observe_decode(&cost, took);
        }
        self.ended(id);
    }

    /// The earliest deadline of a job in hand.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.jobs().filter_map(|job| job.deadline).min()
    }

    /// The jobs whose deadline has passed, and running jobs that are certain to miss theirs by what is now known of
    /// their size. To finish those would serve nobody.
    pub(crate) fn expired(&self, now: Duration) -> Vec<JobId> {
        let passed = |job: &&Job| job.deadline.is_some_and(|deadline| deadline <= now);
        let waiting = self.waiting.iter().filter(passed);
        let running = self
            .lanes
            .iter()
            .flat_map(|lane| lane.running.iter().filter(move |job| passed(job) || self.is_hopeless(lane, job, now)));
        waiting.chain(running).map(|job| job.id).collect()
    }

    /// Whether a running job would be late even if its remaining time were only a fraction of the lower bound.
    fn is_hopeless(&self, lane: &Lane, job: &Job, now: Duration) -> bool {
        let Some(deadline) = job.deadline else { return false };
        let is_at_work = lane.at_work.iter().any(|other| other.id == job.id);
        let since = if is_at_work { lane.turn_began } else { now };
        since + self.cost.alone(job, Estimate::AtLeast) / HASTE > deadline
    }

    /// Records the policy's assignments.
    pub(crate) fn assigned(&mut self, assignments: &[(WorkerId, Assignment)]) {
        for (worker, assignment) in assignments {
            let lane = &mut self.lanes[*worker];
            lane.status = LaneStatus::Busy;
            lane.cancelled.clear();
            if let Some(Turn::Encode(id)) = assignment.turn {
                let position = self.waiting.iter().position(|job| job.id == id);
                let position = position.expect("only a waiting job is taken up. This is a bug.");
                lane.running.push(self.waiting.remove(position));
            }
            let ids = match &assignment.turn {
                Some(Turn::Encode(id) | Turn::Preview(id) | Turn::Decode(id)) => std::slice::from_ref(id),
                Some(Turn::Step(ids)) => ids,
                None => &[],
            };
            lane.at_work = lane.running.iter().filter(|job| ids.contains(&job.id)).copied().collect();
            // The order in which the worker lays out its batch.
            lane.at_work.sort_by_key(|job| job.id);
            lane.turn_began = self.now;
        }
    }

    /// The workers whose turn has no job in hand left: all were cancelled, failed or answered.
    pub(crate) fn abandoned(&self) -> Vec<WorkerId> {
        let is_abandoned = |lane: &Lane| {
            let is_in_hand = |job: &Job| lane.running.iter().any(|other| other.id == job.id);
            lane.status == LaneStatus::Busy && !lane.at_work.is_empty() && !lane.at_work.iter().any(is_in_hand)
        };
        let lanes = self.lanes.iter().enumerate();
        lanes.filter(|(_, lane)| is_abandoned(lane)).map(|(worker, _)| worker).collect()
    }

    /// Number of workers in a turn for jobs, including one that was interrupted and is not back yet.
    pub(crate) fn busy_workers(&self) -> usize {
        self.lanes.iter().filter(|lane| lane.status == LaneStatus::Busy && !lane.idle.is_at_work).count()
    }

    pub(crate) fn load(&self) -> Load {
        Load { waiting: self.waiting.len(), running: self.lanes.iter().map(|lane| lane.running.len()).sum() }
    }

    /// Returns a running job; `None` if it was cancelled during its turn.
    fn running_mut(&mut self, id: JobId) -> Option<&mut Job> {
        self.lanes.iter_mut().flat_map(|lane| &mut lane.running).find(|job| job.id == id)
    }
}
