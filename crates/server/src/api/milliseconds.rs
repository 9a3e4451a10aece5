//! Times as people read them.

use std::time::Duration;

/// A time in milliseconds, to the microsecond: as people read it.
pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e3
}
