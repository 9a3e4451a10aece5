//! Which jobs take which turn on which worker: a pure function of the books and the time.
//!
//! Encoding, stepping, previewing and decoding are turns of their own. A finished job is decoded first. Then the
//! running and the waiting jobs compete, in the order of `ordering`, for the places of the next step,
//! and a waiting job that wins one is encoded before the step is taken. Steps that plans skip take no time and go first. A job is taken up only then, so
//! that no more states are held than short jobs going before long ones make necessary. A job with a preview that is
//! due takes no step before it is drawn, which happens once the job wins a place: so it is drawn at its owner's
//! cost, and those that would have to wait for it can do without its company. Between two
//! steps of a job that keeps its place lie at most `max_batch` decodings, as many encodings and as many previews,
//! those that fail left out.

use std::time::Duration;

use crate::booked_job::{Company, Job, Needs, WorkerId};
use crate::cost::Estimate;
use crate::lane::{Lane, LaneStatus};
use crate::ordering::Ordering;
use crate::state::State;
use crate::step::Step;
use crate::turn::{Assignment, Turn};

/// The next turn of each idle worker that has something to do; the worker with least work in hand
/// chooses first, and one that has just failed chooses nothing new while another can work.
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

/// The jobs of a lane that may have a turn. One that had too little memory beside others waits until nothing else is
/// held, but not for those that wait for it.
fn ready(lane: &Lane) -> impl Iterator<Item = &Job> {
    let is_stuck = lane.is_stuck();
    lane.running.iter().filter(move |job| is_stuck || job.company != Company::None)
}

/// Those of them that may have a step, or the preview before it.
fn stepping(lane: &Lane) -> impl Iterator<Item = &Job> {
    ready(lane).filter(|job| matches!(job.needs, Needs::Step | Needs::Preview))
}

/// A finished job is decoded before anything else: its client waits for nothing but this, and its
/// memory is wanted.
fn decode(lane: &Lane, ordering: &Ordering<'_>) -> Option<Turn> {
    let finished = ready(lane).filter(|job| job.needs == Needs::Decode);
    finished.min_by_key(|job| ordering.rank(job)).map(|job| Turn::Decode(job.id))
}

/// Fills a step, in order. A waiting job that wins a place in it is encoded first, and a preview that is due is
/// drawn first.
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
            // Nothing that comes after a job that is behind takes part without it.
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

/// Whether a job's next step asks nothing of the model: its plan skips it. Such steps go before all others, so that those who take
/// them have company in the steps that they compute.
fn is_free(state: &State, job: &Job) -> bool {
    job.needs == Needs::Step && state.cost.load(job) <= 0.0
}

/// What a lane may still take up.
struct Room {
    places: usize,
    /// The most bytes that all may need.
    most: u64,
    /// Of the states that are held.
    states: u64,
    /// The most that a turn of one job needs beside them.
    peak: u64,
    is_empty: bool,
    /// Whether what is left, and what becomes free, is kept for a job that it is not enough for yet.
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

    /// Whether a waiting job has a place. Any job that was admitted has one where there is nothing else: otherwise it
    /// would wait for ever.
    fn fits(&self, job: &Job) -> bool {
        let memory = job.cost.memory;
        let needs = self.states.saturating_add(memory.state).saturating_add(self.peak.max(memory.peak()));
        let has_room = self.is_empty || job.company != Company::None && needs <= self.most;
        !self.is_kept && self.places > 0 && has_room
    }

    /// Whether there is memory for a step that this job joins.
    fn steps(&self, step: &Step<'_>, job: &Job) -> bool {
        let state = if job.needs == Needs::Encode { job.cost.memory.state } else { 0 };
        let step = step.memory.saturating_add(job.cost.memory.step);
        self.states.saturating_add(state).saturating_add(step) <= self.most
    }

    /// Counts a waiting job as taken up; one that runs has its place.
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
