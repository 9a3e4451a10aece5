//! Which jobs take which turn on which worker: a pure function of the books and the time.
//!
//! Encoding, stepping, previewing and decoding are turns of their own. A finished job is decoded first. Then the
//! running and the waiting jobs compete, in the order of `ordering`, for the places of the next step,
//! and a waiting job that wins one is encoded before the step is taken. A job is taken up only then, so
//! that no more states are held than short jobs going before long ones make necessary. A job with a preview that is
//! due takes no step before it is drawn, which happens once the job wins a place: so it is drawn at its owner's
//! cost, and those that would have to wait for it can do without its company. Between two
//! steps of a job that keeps its place lie at most `max_batch` decodings, as many encodings and as many previews,
//! those that fail left out.

use std::time::Duration;

use crate::ordering::Ordering;
use crate::state::{Job, JobId, Lane, LaneStatus, Needs, State, WorkerId};
use crate::step::Step;

/// One turn of one worker: what to drop first, then what to do.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Assignment {
    pub(crate) drop: Vec<JobId>,
    pub(crate) turn: Option<Turn>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Turn {
    Encode(JobId),
    Step(Vec<JobId>),
    Preview(JobId),
    Decode(JobId),
}

/// The next turn of each idle worker that has something to do; the worker with least work in hand
/// chooses first.
pub(crate) fn assign(state: &State, now: Duration) -> Vec<(WorkerId, Assignment)> {
    let mut idle: Vec<_> = state.lanes.iter().enumerate().filter(|(_, lane)| lane.status == LaneStatus::Idle).collect();
    if idle.is_empty() {
        return Vec::new();
    }
    idle.sort_by_key(|(_, lane)| lane.running.iter().map(|job| state.cost.work(job)).sum::<Duration>());
    let ordering = Ordering::new(state, now);
    let mut waiting: Vec<&Job> = state.waiting.iter().collect();

    let mut assignments = Vec::new();
    for (worker, lane) in idle {
        let turn = decode(lane, &ordering).or_else(|| encode_or_step(state, lane, &waiting, &ordering));
        if let Some(Turn::Encode(id)) = turn {
            waiting.retain(|job| job.id != id);
        }
        if turn.is_some() || !lane.cancelled.is_empty() {
            assignments.push((worker, Assignment { drop: lane.cancelled.clone(), turn }));
        }
    }
    assignments
}

/// A finished job is decoded before anything else: its client waits for nothing but this, and its
/// memory is wanted. One that ran out of memory is decoded once nothing else is held.
fn decode(lane: &Lane, ordering: &Ordering<'_>) -> Option<Turn> {
    let all_alone = lane.running.iter().all(|job| job.needs == Needs::DecodeAlone);
    let ready = |job: &&Job| job.needs == Needs::Decode || all_alone;
    let first = lane.running.iter().filter(ready).min_by_key(|job| ordering.rank(job));
    first.map(|job| Turn::Decode(job.id))
}

/// Fills a step, in order. A waiting job that wins a place in it is encoded first, and a preview that is due is
/// drawn first.
fn encode_or_step(state: &State, lane: &Lane, waiting: &[&Job], ordering: &Ordering<'_>) -> Option<Turn> {
    let stepping = lane.running.iter().filter(|job| matches!(job.needs, Needs::Step | Needs::Preview));
    let mut candidates: Vec<_> = stepping.chain(waiting.iter().copied()).map(|job| (ordering.rank(job), job)).collect();
    candidates.sort_unstable_by_key(|(rank, _)| *rank);

    let mut room = Room::new(state, lane);
    let mut step = Step::new(&state.cost, ordering.now);
    for (rank, job) in candidates {
        let is_behind = rank.is_behind();
        if job.needs == Needs::Encode && !room.fits(job) {
            room.is_kept |= is_behind;
        } else if step.is_joined_by(&rank, job) {
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
        Needs::Step | Needs::Decode | Needs::DecodeAlone => None,
    });
    let taken = || Turn::Step(step.jobs.iter().map(|(_, job)| job.id).collect());
    first.or_else(|| (!step.jobs.is_empty()).then(taken))
}

/// What a lane may still take up.
struct Room {
    places: usize,
    bytes: u64,
    /// Whether what is left, and what becomes free, is kept for a job that it is not enough for yet.
    is_kept: bool,
}

impl Room {
    fn new(state: &State, lane: &Lane) -> Self {
        Room {
            places: state.config.max_batch.saturating_sub(lane.running.len()),
            bytes: lane.memory.room(state.config.memory_budget, lane.held()),
            // For a picture that is decoded once nothing else is held.
            is_kept: lane.running.iter().any(|job| job.needs == Needs::DecodeAlone),
        }
    }

    fn fits(&self, job: &Job) -> bool {
        !self.is_kept && self.places > 0 && job.cost.bytes <= self.bytes
    }

    /// Counts a waiting job as taken up; one that runs has its place.
    fn take(&mut self, job: &Job) {
        if job.needs == Needs::Encode {
            self.places -= 1;
            self.bytes -= job.cost.bytes;
        }
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
