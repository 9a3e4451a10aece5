//! Admission control, from the books alone.

use std::time::Duration;

use crate::booked_job::Job;
use crate::config::SchedulerConfig;
use crate::cost::Estimate;
use crate::lane::{Lane, LaneStatus};
use crate::ordering::Ordering;
use crate::refusal::SubmitError;
use crate::state::State;

impl State {
    /// Queues all of `jobs`, or none.
    ///
    /// # Errors
    /// The first bound that they exceed.
    pub(crate) fn submit(&mut self, jobs: Vec<Job>) -> Result<(), SubmitError> {
        for job in self.check(jobs)? {
            self.sharing.join(job.id, job.owner);
            self.waiting.push(job);
        }
        Ok(())
    }

    /// Returns the jobs as they would be queued, with their effective deadlines.
    pub(crate) fn check(&self, mut jobs: Vec<Job>) -> Result<Vec<Job>, SubmitError> {
        for job in &mut jobs {
            let longest = self.config.max_deadline.map(|from_now| job.arrived.saturating_add(from_now));
            job.deadline = job.deadline.into_iter().chain(longest).min();
        }
        admit(self, &jobs)?;
        Ok(jobs)
    }

    /// Predicted time to finish all jobs in hand.
    pub(crate) fn predicted_drain(&self) -> Duration {
        drain(self, &[])
    }
}

/// Checks whether `jobs` may be queued, all or none. An empty queue takes any number, so that no bound of the queue can
/// shut out a large submission for ever.
///
/// # Errors
/// The first bound that they exceed.
pub(crate) fn admit(state: &State, jobs: &[Job]) -> Result<(), SubmitError> {
    let config = &state.config;
    jobs.iter().try_for_each(|job| fits(state, job))?;
    let crowded = state.waiting.len() + jobs.len() > config.max_waiting;
    let backlogged = config.max_backlog.is_some_and(|most| drain(state, jobs) > most);
    if !state.waiting.is_empty() && (crowded || backlogged) {
        return Err(SubmitError::QueueFull { waiting: state.waiting.len(), place_in: place_in(state, jobs) });
    }
    for (job_idx, job) in jobs.iter().enumerate() {
        let Some(deadline) = job.deadline else { continue };
        let deadline = deadline.saturating_sub(job.arrived);
        in_time(state, job, &jobs[..job_idx], deadline)?;
    }
    Ok(())
}

/// Checks whether any worker has the memory for a job.
///
/// # Errors
/// The memory bound that the job exceeds.
pub(crate) fn fits(state: &State, job: &Job) -> Result<(), SubmitError> {
    let bytes = job.cost.memory.alone();
    // A stage may hold a quarter more than its estimate. The device's free memory has no more than it has.
    let needed = if state.config.memory_budget.is_some() { bytes } else { bytes.saturating_add(bytes / 4) };
    match largest_budget(state).filter(|budget| needed > *budget) {
        Some(budget) => Err(SubmitError::TooLarge { bytes: needed, budget }),
        None => Ok(()),
    }
}

/// The largest memory budget of a worker, if all workers are bounded.
fn largest_budget(state: &State) -> Option<u64> {
    let lanes = state.lanes.iter().filter(|lane| lane.status != LaneStatus::Lost);
    let budgets = lanes.map(|lane| lane.budget(&state.config)).collect::<Option<Vec<_>>>()?;
    budgets.into_iter().max().or(state.config.memory_budget)
}

/// Checks whether a job that arrives together with `mates` can meet `deadline`. It is refused only if even the lower
/// bounds of all uncertain times exceed the deadline.
fn in_time(state: &State, job: &Job, mates: &[Job], deadline: Duration) -> Result<(), SubmitError> {
    let own = |estimate| all(state, mates.iter(), estimate) + state.cost.alone(job, estimate);
    let behind_others = |estimate| completion(state, job, mates, estimate);
    match () {
        () if own(Estimate::AtLeast) > deadline => {
            Err(SubmitError::NeverInTime { predicted: own(Estimate::Expected), deadline })
        }
        () if behind_others(Estimate::AtLeast) > deadline => {
            let (alone, predicted) = (own(Estimate::Expected), behind_others(Estimate::Expected));
            Err(SubmitError::TooLate { predicted, alone, deadline })
        }
        () => Ok(()),
    }
}

/// Predicted time to finish all jobs in hand and `more`, at least the time of the longest job alone.
pub(crate) fn drain(state: &State, more: &[Job]) -> Duration {
    let jobs = || state.jobs().chain(more);
    let longest = jobs().map(|job| state.cost.alone(job, Estimate::Expected)).max();
    all(state, jobs(), Estimate::Expected).max(longest.unwrap_or_default())
}

/// Time until `jobs`, refused now, would have a place in the queue: until enough queued jobs have started and the
/// backlog is short enough, or until the queue is empty.
fn place_in(state: &State, jobs: &[Job]) -> Duration {
    let SchedulerConfig { max_waiting, max_backlog, .. } = state.config;
    let n_waiting = state.waiting.len();
    let n_too_many = (n_waiting + jobs.len()).saturating_sub(max_waiting).min(n_waiting);
    let backlog = max_backlog.map_or(Duration::ZERO, |most| drain(state, jobs).saturating_sub(most));
    let ordering = Ordering::new(state, state.now);
    taken_up_in(state, &ordering, n_too_many).max(backlog).min(taken_up_in(state, &ordering, n_waiting))
}

/// Time until the first `n` queued jobs have started. All work ranked before the last of them must be done, and as many
/// running jobs must have finished as places are needed.
fn taken_up_in(state: &State, ordering: &Ordering<'_>, n: usize) -> Duration {
    let mut line: Vec<_> = state.waiting.iter().map(|job| ordering.rank(job)).collect();
    line.sort_unstable();
    let Some(last) = n.checked_sub(1).and_then(|i| line.get(i)) else { return Duration::ZERO };
    let before = all(state, state.jobs().filter(|other| ordering.rank(other) < *last), Estimate::Expected);

    let running: Vec<_> = state.lanes.iter().flat_map(|lane| &lane.running).collect();
    let n_places = state.n_lanes() as usize * state.config.max_batch;
    let n_leaving = (running.len() + n).saturating_sub(n_places).min(running.len());
    let mut left: Vec<_> = running.into_iter().map(|job| state.cost.alone(job, Estimate::Expected)).collect();
    left.sort_unstable();
    let places = n_leaving.checked_sub(1).map_or(Duration::ZERO, |i| left[i]);
    before.max(places)
}

/// Time from arrival to completion of a job that arrives together with `mates`, if no later job is ranked before it:
/// the turn in progress, all work ranked before it, then its own time.
fn completion(state: &State, job: &Job, mates: &[Job], estimate: Estimate) -> Duration {
    let group: Vec<_> = mates.iter().chain([job]).copied().collect();
    let ordering = Ordering::with(state, &group, job.arrived);
    let rank = ordering.rank(job);
    let before = state.jobs().chain(mates).filter(|other| ordering.rank(other) < rank);
    turn_ends_in(state, &ordering, job, estimate) + all(state, before, estimate) + state.cost.alone(job, estimate)
}

/// Time until the first worker finishes a turn of jobs ranked after `job`. A turn is interrupted only if none of its
/// jobs has a waiting client.
fn turn_ends_in(state: &State, ordering: &Ordering<'_>, job: &Job, estimate: Estimate) -> Duration {
    let rank = ordering.rank(job);
    let ends_in = |lane: &Lane| {
        let mut in_hand = lane.at_work.iter().filter(|other| lane.running.iter().any(|job| job.id == other.id));
        // Jobs ranked before `job` are counted with the work before it.
        let is_waited_for = in_hand.clone().next().is_some() && in_hand.all(|other| ordering.rank(other) > rank);
        match is_waited_for {
            true => (lane.turn_began + state.cost.turn_takes(&lane.at_work, estimate)).saturating_sub(state.now),
            false => Duration::ZERO,
        }
    };
    state.lanes.iter().filter(|lane| lane.status != LaneStatus::Lost).map(ends_in).min().unwrap_or_default()
}

/// Time that the workers need for `jobs`. The limit is either full steps or occupied places.
fn all<'a>(state: &State, jobs: impl Iterator<Item = &'a Job>, estimate: Estimate) -> Duration {
    let (mut work, mut alone) = (Duration::ZERO, Duration::ZERO);
    for job in jobs {
        work += state.cost.work(job, estimate);
        alone += state.cost.alone(job, estimate);
    }
    let n_places = state.n_lanes().saturating_mul(u32::try_from(state.config.max_batch).unwrap_or(u32::MAX));
    (work / state.n_lanes()).max(alone / n_places.max(1))
}

#[cfg(test)]
mod tests;
