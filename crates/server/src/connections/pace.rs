//! How slow the other end may be. Decided by numbers alone.

use std::time::Duration;

/// How long the other end is given before its rate is looked at.
const GRACE: Duration = Duration::from_secs(30);

/// How slow a transfer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Longest without a byte.
    pub idle: Duration,
    /// Fewest bytes a second, on average after half a minute; none where it is 0.
    pub min_rate: u64,
    /// Longest altogether.
    pub total: Duration,
}

/// What is too slow about a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TooSlow {
    /// Nothing came for too long.
    #[error("made no progress for too long (the server's --body-timeout)")]
    Idle,
    /// It trickles.
    #[error("came too slowly (the server's --min-transfer-rate)")]
    Rate,
    /// It took too long, however fast it was.
    #[error("took too long (the server's --upload-timeout)")]
    Total,
}

impl Pace {
    /// When patience ends, and why, counted from the beginning of a transfer whose last progress was at `progressed`
    /// and brought it to so many `bytes`.
    pub(super) fn ends(self, bytes: u64, progressed: Duration) -> (Duration, TooSlow) {
        let idle = (progressed.saturating_add(self.idle), TooSlow::Idle);
        let rate = (self.lasts(bytes), TooSlow::Rate);
        let total = (self.total, TooSlow::Total);
        [idle, rate, total].into_iter().min_by_key(|(at, _)| *at).unwrap_or(total)
    }

    /// How long so many bytes may take by their rate alone.
    pub(super) fn lasts(self, bytes: u64) -> Duration {
        bytes
            .checked_div(self.min_rate)
            .map_or(Duration::MAX, |seconds| GRACE.saturating_add(Duration::from_secs(seconds)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn patience_ends_with_the_first_of_silence_rate_and_time() {
        let pace = Pace { idle: seconds(10), min_rate: 1000, total: seconds(100) };
        for (bytes, progressed, expected) in [
            (0, 0, (10, TooSlow::Idle)),
            (5000, 25, (35, TooSlow::Idle)),
            (5000, 26, (35, TooSlow::Rate)),
            // A byte every nine seconds.
            (3, 27, (30, TooSlow::Rate)),
            (60_000, 89, (90, TooSlow::Rate)),
            (60_000_000, 95, (100, TooSlow::Total)),
        ] {
            let (at, why) = pace.ends(bytes, seconds(progressed));
            assert_eq!((at.as_secs(), why), expected, "{bytes} bytes, the last at {progressed} s");
        }
    }

    #[test]
    fn without_a_rate_only_silence_and_time_count() {
        let pace = Pace { idle: seconds(10), min_rate: 0, total: seconds(100) };
        assert_eq!(pace.ends(0, seconds(50)), (seconds(60), TooSlow::Idle));
        assert_eq!(pace.lasts(u64::MAX), Duration::MAX);
        assert_eq!(Pace { min_rate: 1, ..pace }.ends(u64::MAX, Duration::MAX), (seconds(100), TooSlow::Total));
    }
}
