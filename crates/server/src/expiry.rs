//! Letting go what has expired, whether anybody asks for it or not: it holds memory, and pictures that somebody made.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::idempotency::Begun;
use crate::jobs::Job;
use crate::state::AppState;

/// How long something may be kept beyond its time.
const PERIOD: Duration = Duration::from_secs(30);

/// Lets go what has expired, again and again.
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

/// Whether the answer to a request that was begun still leads somewhere: its job is kept, and its URLs are good.
pub(crate) fn can_be_told(state: &AppState, begun: &Begun, now: u64) -> bool {
    let is_kept = match begun {
        Begun::Live(_) => true,
        Begun::Job(job) => state.jobs.has(&job.id, now),
    };
    is_kept && begun.live().urls().iter().all(|url| state.files.has(url, now))
}

/// Forgets a job that has ended: its pictures, the files behind their URLs, and that its request was ever sent.
pub(crate) fn forget(state: &AppState, job: &Job) {
    state.replays.forget(&job.id);
    job.live.urls().iter().for_each(|url| state.files.forget(url));
    job.live.forget();
}
