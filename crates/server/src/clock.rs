//! The time of day for everything that expires.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Seconds since 1970. The clock advances with Tokio's, which tests can move and which never goes back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// Time since 1970 at which the clock was made.
    begun: Duration,
    beginning: Instant,
}

impl Default for Clock {
    /// A clock set to the system's time.
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
