//! Whether jobs are taken, from the books alone.

use std::time::Duration;

use crate::handle::SubmitError;
use crate::ordering::Ordering;
use crate::state::{Job, State};

/// Whether `jobs` are put in line, all or none. An empty line takes any number, so that no bound
/// of the line can shut a large submission out for ever.
///
/// # Errors
/// The first bound that they exceed.
pub(crate) fn admit(state: &State, jobs: &[Job]) -> Result<(), SubmitError> {
    let config = &state.config;
    if let Some(budget) = config.memory_budget
        && let Some(job) = jobs.iter().find(|job| job.cost.bytes > budget)
    {
        return Err(SubmitError::TooLarge { bytes: job.cost.bytes, budget });
    }
    let predicted_drain = drain(state, jobs);
    let crowded = state.waiting.len() + jobs.len() > config.max_waiting;
    let backlogged = config.max_backlog.is_some_and(|most| predicted_drain > most);
    if !state.waiting.is_empty() && (crowded || backlogged) {
        return Err(SubmitError::QueueFull { waiting: state.waiting.len(), predicted_drain: drain(state, &[]) });
    }
    for (job_idx, job) in jobs.iter().enumerate() {
        let Some(deadline) = job.deadline else { continue };
        let predicted = completion(state, job, &jobs[..job_idx]);
        let deadline = deadline.saturating_sub(job.arrived);
        if predicted > deadline {
            return Err(SubmitError::TooLate { predicted, deadline });
        }
    }
    Ok(())
}

/// How long everything in hand and `more` will take, and no less than the longest job takes alone.
pub(crate) fn drain(state: &State, more: &[Job]) -> Duration {
    let jobs = || state.jobs().chain(more);
    let longest = jobs().map(|job| state.cost.alone(job)).max();
    all(state, jobs()).max(longest.unwrap_or_default())
}

/// How long after its arrival a job will be done that arrives together with `mates`, if nothing
/// that comes later goes before it: all that goes before it, then its own time.
fn completion(state: &State, job: &Job, mates: &[Job]) -> Duration {
    let group: Vec<_> = mates.iter().chain([job]).copied().collect();
    let ordering = Ordering::with(state, &group, job.arrived);
    let rank = ordering.rank(job);
    let before = state.jobs().chain(mates).filter(|other| ordering.rank(other) < rank);
    all(state, before) + state.cost.alone(job)
}

/// How long the workers take for `jobs`: either their steps are full, or all their places are.
fn all<'a>(state: &State, jobs: impl Iterator<Item = &'a Job>) -> Duration {
    let (mut work, mut alone) = (Duration::ZERO, Duration::ZERO);
    for job in jobs {
        work += state.cost.work(job);
        alone += state.cost.alone(job);
    }
    let n_places = state.n_lanes().saturating_mul(u32::try_from(state.config.max_batch).unwrap_or(u32::MAX));
    (work / state.n_lanes()).max(alone / n_places.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{JobOptions, SchedulerConfig};
    use crate::state::JobId;
    use crate::testing::{TICK, books, cost};

    const CONFIG: SchedulerConfig = SchedulerConfig {
        max_batch: 2,
        max_waiting: 3,
        max_backlog: Some(Duration::from_secs(30)),
        memory_budget: Some(10),
        max_deadline: None,
        priorities: true,
        calibration: Duration::ZERO,
    };

    fn jobs(ids: std::ops::Range<JobId>, steps: usize, deadline: Option<u32>) -> Vec<Job> {
        let options = JobOptions { deadline: deadline.map(|ticks| TICK * ticks), ..JobOptions::default() };
        ids.map(|id| Job::new(id, cost(64, steps), options, Duration::ZERO)).collect()
    }

    #[test]
    fn a_group_is_taken_whole_or_not_at_all() {
        let mut state = books(CONFIG, 1);
        state.submit(jobs(0..2, 1, None)).unwrap();
        let refused = state.submit(jobs(2..4, 1, None));
        assert!(matches!(refused, Err(SubmitError::QueueFull { waiting: 2, .. })), "one of the two would fit");
        state.submit(jobs(4..5, 1, None)).unwrap();
        assert_eq!(state.load().waiting, 3);
    }

    #[test]
    fn an_empty_line_takes_a_group_of_any_size() {
        let mut state = books(CONFIG, 1);
        state.submit(jobs(0..10, 9, None)).unwrap();
        assert!(state.submit(jobs(10..11, 1, None)).is_err());
    }

    #[test]
    fn a_full_line_tells_how_long_everything_in_hand_will_take() {
        let mut state = books(CONFIG, 1);
        // Encoding, a step, decoding: 1 + 1 + 4 s each.
        state.submit(jobs(0..3, 1, None)).unwrap();
        let refused = state.submit(jobs(3..4, 1, None)).unwrap_err();
        assert_eq!(refused, SubmitError::QueueFull { waiting: 3, predicted_drain: TICK * 18 });
        let mut state = books(CONFIG, 2);
        state.submit(jobs(0..3, 1, None)).unwrap();
        assert_eq!(state.predicted_drain(), TICK * 9, "two workers share it");
        state.submit(jobs(4..5, 90, None)).unwrap_err();
    }

    #[test]
    fn small_pictures_take_as_long_as_their_places_allow() {
        let mut state = books(CONFIG, 1);
        let small = |id| Job::new(id, cost(16, 10), JobOptions::default(), Duration::ZERO);
        state.submit((0..3).map(small).collect()).unwrap();
        // Each is 1 + 10 + 1 s alone, and two step at a time; full steps would have taken less.
        assert_eq!(state.predicted_drain(), TICK * 18);
    }

    #[test]
    fn a_deadline_is_kept_by_what_goes_before() {
        let mut state = books(CONFIG, 1);
        state.submit(jobs(0..1, 10, None)).unwrap();
        // 15 s go before what takes longer, nothing before what takes less.
        let late = |deadline| SubmitError::TooLate { predicted: TICK * 31, deadline: TICK * deadline };
        let mut roomy = books(SchedulerConfig { max_backlog: None, ..CONFIG }, 1);
        roomy.submit(jobs(0..1, 10, None)).unwrap();
        assert_eq!(roomy.submit(jobs(1..2, 11, Some(30))), Err(late(30)));
        assert_eq!(roomy.submit(jobs(1..2, 11, Some(31))), Ok(()));
        assert_eq!(state.submit(jobs(1..2, 9, Some(14))), Ok(()));
        assert_eq!(roomy.waiting.len(), 2);
    }

    #[test]
    fn mates_go_before_one_another_too() {
        let mut state = books(SchedulerConfig { max_backlog: None, ..CONFIG }, 1);
        assert!(state.submit(jobs(0..2, 1, Some(11))).is_err(), "the second ends after 12 s");
        assert_eq!(state.submit(jobs(0..2, 1, Some(12))), Ok(()));
    }

    #[test]
    fn the_schedulers_own_deadline_holds_for_all() {
        let mut state = books(SchedulerConfig { max_deadline: Some(TICK * 9), ..CONFIG }, 1);
        let refused = |deadline| SubmitError::TooLate { predicted: TICK * 10, deadline: TICK * deadline };
        assert_eq!(state.submit(jobs(0..1, 5, None)), Err(refused(9)));
        assert_eq!(state.submit(jobs(0..1, 5, Some(20))), Err(refused(9)));
        assert_eq!(state.submit(jobs(0..1, 5, Some(8))), Err(refused(8)));
    }

    #[test]
    fn a_job_over_the_memory_budget_is_never_taken() {
        let mut state = books(CONFIG, 1);
        let mut jobs = jobs(0..2, 1, None);
        jobs[1].cost.bytes = 11;
        assert_eq!(state.submit(jobs), Err(SubmitError::TooLarge { bytes: 11, budget: 10 }));
    }
}
