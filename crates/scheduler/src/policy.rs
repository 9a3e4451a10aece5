//! The scheduling policy: which jobs take which turn on which worker. A pure function of the books and the time.
//!
//! Encodings, steps, previews and decodings are separate turns. A finished job is decoded first. Then running and
//! queued jobs compete, in the order of `ordering`, for the places of the next step. A queued job that wins a place is
//! encoded before the step is taken. Jobs are started only then, so that no more states are held than the preference
//! for short jobs requires. Steps that a plan skips take no time and go first. A job with a due preview takes no step
//! before it is drawn. The preview is drawn once the job wins a place, so that its owner bears the cost; jobs that
//! would have to wait for it can step without its company. Between two steps of a job that keeps its place there are at
//! most `max_batch` decodings, as many encodings and as many previews, not counting failed ones.

use std::time::Duration;

use crate::booked_job::{Company, Job, Needs, WorkerId};
use crate::cost::Estimate;
use crate::lane::{Lane, LaneStatus};
use crate::ordering::Ordering;
use crate::state::State;
use crate::step::Step;
use crate::turn::{Assignment, Turn};

/// The next turn of each idle worker that has something to do. The worker with the least work in hand chooses first. A
/// worker that has just failed gets nothing new while another can work.
pub(crate) fn assign(state: &State, now: Duration) -> Vec<(WorkerId, Assignment)> {
    let mut idle: Vec<_> = state.lanes.iter().enumerate().filter(|(_, lane)| lane.status == LaneStatus::Idle).collect();
    if idle.is_empty() {
        return Vec::new();
    }
    idle.sort_by_key(|(_, lane)| {
        lane.running.iter().map(|job| state.cost.work(job, Estimate::Expected)).sum::<Duration>()
    });
    let ordering = Ordering::new(state, now);
    let mut waiting: Vec<&Job> = state.waiting.iter().collect();

    let mut assignments = Vec::new();
    for (worker, lane) in idle {
        let is_shunned = lane.health.shunned_until(now).is_some() && state.has_fit_peer(worker, now);
        let offered = if is_shunned { &[] } else { &waiting[..] };
        let turn = decode(lane, &ordering).or_else(|| encode_or_step(state, lane, offered, &ordering));
        if let Some(Turn::Encode(id)) = turn {
            waiting.retain(|job| job.id != id);
        }
        if turn.is_some() || !lane.cancelled.is_empty() {
            assignments.push((worker, Assignment { drop: lane.cancelled.clone(), turn }));
        }
    }
    assignments
}

/// The jobs of a lane that may have a turn. A job that had too little memory beside others waits until nothing else is
/// held, unless all the lane's jobs wait so.
fn ready(lane: &Lane) -> impl Iterator<Item = &Job> {
    let is_stuck = lane.is_stuck();
    lane.running.iter().filter(move |job| is_stuck || job.company != Company::None)
}

/// The ready jobs that may have a step, or the preview before it.
fn stepping(lane: &Lane) -> impl Iterator<Item = &Job> {
    ready(lane).filter(|job| matches!(job.needs, Needs::Step | Needs::Preview))
}

/// Decodes a finished job before anything else: its client waits for nothing but this, and its memory is needed.
fn decode(lane: &Lane, ordering: &Ordering<'_>) -> Option<Turn> {
    let finished = ready(lane).filter(|job| job.needs == Needs::Decode);
    finished.min_by_key(|job| ordering.rank(job)).map(|job| Turn::Decode(job.id))
}

/// Fills a step in rank order. A queued job that wins a place is encoded first, and a due preview is drawn first.
fn encode_or_step(state: &State, lane: &Lane, waiting: &[&Job], ordering: &Ordering<'_>) -> Option<Turn> {
    let stepping = stepping(lane);
    let mut candidates: Vec<_> = stepping.chain(waiting.iter().copied()).map(|job| (ordering.rank(job), job)).collect();
    candidates.sort_unstable_by_key(|(rank, job)| (!is_free(state, job), *rank));

    let mut room = Room::new(state, lane);
    let mut step = Step::new(&state.cost, ordering.now);
    for (rank, job) in candidates {
        let is_behind = rank.is_behind();
        if job.needs == Needs::Encode && !room.fits(job) {
            room.is_kept |= is_behind;
        } else if step.is_joined_by(&rank, job) && (step.jobs.is_empty() || room.steps(&step, job)) {
            room.take(job);
            step.add(rank, job);
        } else if is_behind {
            // A job that is behind must not be passed over by later jobs.
            break;
        }
    }
    let first = step.jobs.iter().find_map(|(_, job)| match job.needs {
        Needs::Encode => Some(Turn::Encode(job.id)),
        Needs::Preview => Some(Turn::Preview(job.id)),
        Needs::Step | Needs::Decode => None,
    });
    let taken = || Turn::Step(step.jobs.iter().map(|(_, job)| job.id).collect());
    first.or_else(|| (!step.jobs.is_empty()).then(taken))
}

/// Whether a job's next step does not run the model because its plan skips it. Such steps go before all others, so that
/// their jobs can join others in the steps that they compute.
fn is_free(state: &State, job: &Job) -> bool {
    job.needs == Needs::Step && state.cost.load(job) <= 0.0
}

/// The room that a lane has for more jobs.
struct Room {
    places: usize,
    /// Maximum bytes that all jobs may need.
    most: u64,
    /// Bytes of the held states.
    states: u64,
    /// Maximum bytes that a turn of one job needs beside them.
    peak: u64,
    is_empty: bool,
    /// Whether the remaining room, and any that becomes free, is reserved for a job that does not fit yet.
    is_kept: bool,
}

impl Room {
    fn new(state: &State, lane: &Lane) -> Self {
        Room {
            places: state.config.max_batch.saturating_sub(lane.running.len()),
            most: lane.memory.most(lane.budget(&state.config).map(|budget| budget.saturating_sub(lane.kept))),
            states: lane.held(),
            peak: lane.running.iter().map(|job| job.cost.memory.peak()).max().unwrap_or(0),
            is_empty: lane.running.is_empty(),
            is_kept: lane.running.iter().any(|job| job.company == Company::None),
        }
    }

    /// Whether there is room for a queued job. An empty lane has room for any admitted job; otherwise the job would
    /// wait for ever.
    fn fits(&self, job: &Job) -> bool {
        let memory = job.cost.memory;
        let needs = self.states.saturating_add(memory.state).saturating_add(self.peak.max(memory.peak()));
        let has_room = self.is_empty || job.company != Company::None && needs <= self.most;
        !self.is_kept && self.places > 0 && has_room
    }

    /// Whether there is memory for the step if this job joins it.
    fn steps(&self, step: &Step<'_>, job: &Job) -> bool {
        let state = if job.needs == Needs::Encode { job.cost.memory.state } else { 0 };
        let step = step.memory.saturating_add(job.cost.memory.step);
        self.states.saturating_add(state).saturating_add(step) <= self.most
    }

    /// Counts a queued job as started; a running job already has its place.
    fn take(&mut self, job: &Job) {
        if job.needs == Needs::Encode {
            self.places -= 1;
            self.states = self.states.saturating_add(job.cost.memory.state);
            self.peak = self.peak.max(job.cost.memory.peak());
            self.is_empty = false;
            self.is_kept |= job.company == Company::None;
        }
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
