//! The health of a worker, and its consequences.
//!
//! A failing worker gets no new jobs for a while if others can take them. Otherwise a worker that returns errors within
//! milliseconds would always be idle first and attract every job. After several failures without a finished picture
//! between them, the worker is tried with a small picture of the scheduler's own. A request that always fails is thus
//! not mistaken for a device that does. A worker that fails its trial, or panics, loads its model again, with a growing
//! wait before each load. After several failed loads in a row it is lost.

use std::time::Duration;

use crate::backoff::Backoff;

/// Failed turns without a finished picture between them, before a trial.
const FAILURES_BEFORE_TRIAL: u32 = 3;

/// Maximum number of reloads in a row that fail to load or to pass their trial.
const MOST_FAILED_LOADS: u32 = 4;

/// The recent record of a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Health {
    /// Failed turns since the last picture or trial.
    failures: u32,
    /// Reloads since the last picture.
    reloads: u32,
    /// Failed loads in a row.
    failed_loads: u32,
    was_loaded: bool,
    shunned_until: Duration,
}

/// The next action for a worker without a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Load the model again after this wait.
    Load(Duration),
    /// Give the worker up.
    Lose,
}

impl Health {
    /// Records a finished picture, which resets all counters.
    pub(crate) fn finished(&mut self) {
        *self = Health { was_loaded: true, ..Health::default() };
    }

    /// Records a device failure in a turn.
    pub(crate) fn failed(&mut self, now: Duration, backoff: Backoff) {
        self.failures += 1;
        self.shunned_until = now + backoff.after(self.failures);
    }

    /// Whether the worker must pass a trial before it does anything else.
    pub(crate) fn wants_trial(&self) -> bool {
        self.failures >= FAILURES_BEFORE_TRIAL
    }

    /// Records that the worker has its model and has passed its trial, if there was one.
    pub(crate) fn fit(&mut self) {
        *self = Health { failures: 0, failed_loads: 0, was_loaded: true, ..*self };
    }

    /// Records that the pipeline panicked or failed its trial. The first reload after a picture has no wait.
    pub(crate) fn broke(&mut self, backoff: Backoff) -> Next {
        self.reloads = self.reloads.saturating_add(1);
        Next::Load(backoff.after(self.reloads - 1))
    }

    /// Records a failed load or a failed trial after it. A model that fails its first load is not tried again.
    pub(crate) fn did_not_load(&mut self, backoff: Backoff) -> Next {
        self.failed_loads += 1;
        if !self.was_loaded || self.failed_loads >= MOST_FAILED_LOADS {
            return Next::Lose;
        }
        self.reloads = self.reloads.saturating_add(1);
        Next::Load(backoff.after(self.reloads - 1))
    }

    /// End of the time in which other workers are preferred for new jobs, if it is not over.
    pub(crate) fn shunned_until(&self, now: Duration) -> Option<Duration> {
        Some(self.shunned_until).filter(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn loaded() -> Health {
        let mut health = Health::default();
        health.fit();
        health
    }

    #[test]
    fn a_worker_that_fails_is_shunned_longer_each_time() {
        let mut health = loaded();
        let shunned: Vec<_> = (0..3)
            .map(|_| {
                health.failed(SECOND * 10, Backoff::default());
                health.shunned_until(SECOND * 10).unwrap().as_secs() - 10
            })
            .collect();
        assert_eq!(shunned, [1, 2, 4]);
        assert_eq!(health.shunned_until(SECOND * 14), None);
        health.finished();
        assert_eq!(health.shunned_until(SECOND * 10), None, "a picture mends it");
    }

    #[test]
    fn failures_in_a_row_ask_for_a_trial() {
        let fail = |health: &mut Health, times| (0..times).for_each(|_| health.failed(SECOND, Backoff::default()));
        let mut health = loaded();
        fail(&mut health, 2);
        health.finished();
        fail(&mut health, 2);
        assert!(!health.wants_trial(), "a picture was between them");
        fail(&mut health, 1);
        assert!(health.wants_trial());
        health.fit();
        assert!(!health.wants_trial());
    }

    #[test]
    fn loads_wait_longer_each_time_until_a_picture_is_finished() {
        let mut health = loaded();
        let mut waits = Vec::new();
        for _ in 0..9 {
            waits.push(health.broke(Backoff::default()));
            health.fit();
        }
        let seconds = [0, 1, 2, 4, 8, 16, 32, 60, 60];
        assert_eq!(waits, seconds.map(|seconds| Next::Load(SECOND * seconds)));
        health.finished();
        assert_eq!(health.broke(Backoff::default()), Next::Load(Duration::ZERO));
    }

    #[test]
    fn a_worker_whose_model_does_not_come_back_is_lost() {
        let mut health = loaded();
        assert_eq!(health.broke(Backoff::default()), Next::Load(Duration::ZERO));
        let next: Vec<_> = (0..4).map(|_| health.did_not_load(Backoff::default())).collect();
        let [first, second, third] = [1, 2, 4].map(|seconds| Next::Load(SECOND * seconds));
        assert_eq!(next, [first, second, third, Next::Lose]);
        assert_eq!(Health::default().did_not_load(Backoff::default()), Next::Lose, "at the start");
    }

    #[test]
    fn a_load_that_works_begins_the_count_again() {
        let mut health = loaded();
        for _ in 0..3 {
            for _ in 0..3 {
                assert_ne!(health.did_not_load(Backoff::default()), Next::Lose);
            }
            health.fit();
        }
    }
}
