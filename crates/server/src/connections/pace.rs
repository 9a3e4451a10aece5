//! Limits on slow peers, as pure functions of numbers.

use std::time::Duration;

use super::progress::{Progress, Window};
use crate::api::bounds::TooSlow;

/// Window over which a transfer's rate is measured, and so the grace period before the first check.
const WINDOW: Duration = Duration::from_secs(30);

/// Limits of a slow transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Longest time without a byte.
    pub idle: Duration,
    /// Fewest bytes a second in any half a minute; 0 for no limit.
    pub min_rate: u64,
    /// Longest total time.
    pub total: Duration,
}

impl Pace {
    /// Returns the bytes a transfer must bring within a span. The system may report none of it before `held` bytes are
    /// sent, so the window is larger by these.
    pub(super) fn window(self, held: u64) -> Window {
        let more = held.checked_div(self.min_rate).map_or(Duration::ZERO, Duration::from_secs);
        let least = WINDOW.as_secs().saturating_mul(self.min_rate).saturating_add(held);
        Window { span: WINDOW + more, least: if self.min_rate == 0 { 0 } else { least } }
    }

    /// When an upload exceeds a limit, counted from its beginning, and which limit.
    pub(super) fn ends(self, progress: &Progress) -> (Duration, TooSlow) {
        let idle = (progress.latest().saturating_add(self.idle), TooSlow::Idle);
        let rate = (progress.falls_short(), TooSlow::Rate);
        let total = (self.total, TooSlow::Total);
        [idle, rate, total].into_iter().min_by_key(|(at, _)| *at).unwrap_or(total)
    }
}

#[cfg(test)]
mod tests {
    use super::super::progress::progress;
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn patience_ends_with_the_first_of_silence_rate_and_time() {
        let pace = Pace { idle: seconds(10), min_rate: 1000, total: seconds(100) };
        // A byte every nine seconds, and a thousand every second.
        let trickling: Vec<_> = (0..4).map(|i| (9 * i, 1)).collect();
        let steady: Vec<_> = (0..100).map(|i| (i, 1000)).collect();
        for (given, expected) in [
            (&[][..], (10, TooSlow::Idle)),
            (&[(25, 50_000)], (35, TooSlow::Idle)),
            (&[(26, 5000)], (30, TooSlow::Rate)),
            (&trickling, (30, TooSlow::Rate)),
            // A head start counts only for half a minute.
            (&[(0, 60_000_000), (29, 1)], (30, TooSlow::Rate)),
            (&steady, (100, TooSlow::Total)),
        ] {
            let (at, why) = pace.ends(&progress(pace.window(0), given));
            assert_eq!((at.as_secs(), why), expected, "{given:?}");
        }
    }

    #[test]
    fn without_a_rate_only_silence_and_time_count() {
        let pace = Pace { idle: seconds(10), min_rate: 0, total: seconds(100) };
        for held in [0, 5000] {
            let window = pace.window(held);
            assert_eq!(pace.ends(&progress(window, &[(50, 1)])), (seconds(60), TooSlow::Idle));
            assert_eq!(progress(window, &[(0, 1)]).falls_short(), Duration::MAX);
        }
    }

    #[test]
    fn what_the_system_holds_is_given_its_time() {
        let pace = Pace { idle: seconds(10), min_rate: 1000, total: seconds(100) };
        assert_eq!(pace.window(0), Window { span: seconds(30), least: 30_000 });
        assert_eq!(pace.window(50_000), Window { span: seconds(80), least: 80_000 });
    }
}
