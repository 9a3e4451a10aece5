//! The time of day, as everything that expires reads it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Seconds since 1970. They go on by Tokio's clock, which tests can move and which nobody can turn back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// When it was made, since 1970.
    begun: Duration,
    beginning: Instant,
}

impl Default for Clock {
    /// A clock that is right now.
    fn default() -> Self {
        let begun = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { begun, beginning: Instant::now() }
    }
}

impl Clock {
    pub(crate) fn now(&self) -> u64 {
        (self.begun + self.beginning.elapsed()).as_secs()
    }
}
