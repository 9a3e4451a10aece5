//! Removing what has expired without waiting for a request: it holds memory, and pictures that users made.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::idempotency::Begun;
use crate::jobs::Job;
use crate::state::AppState;

/// Longest time that an expired entry is kept.
const PERIOD: Duration = Duration::from_secs(30);

/// Removes expired entries periodically.
pub(crate) async fn run(state: AppState) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = state.clock.now();
        state.files.expire(now);
        state.jobs.expire(now);
        state.replays.expire(now, |begun| can_be_told(&state, begun, now));
    }
}

/// Whether a started request can still be answered: its job is kept, and its URLs are valid.
pub(crate) fn can_be_told(state: &AppState, begun: &Begun, now: u64) -> bool {
    let is_kept = match begun {
        Begun::Live(_) => true,
        Begun::Job(job) => state.jobs.has(&job.id, now),
    };
    is_kept && begun.live().urls().iter().all(|url| state.files.has(url, now))
}

/// Forgets a job that has ended: its pictures, the files behind their URLs, and its idempotency key.
pub(crate) fn forget(state: &AppState, job: &Job) {
    state.replays.forget(&job.id);
    job.live.urls().iter().for_each(|url| state.files.forget(url));
    job.live.forget();
}
