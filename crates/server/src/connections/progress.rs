//! Recent progress of a transfer, and whether it falls short of its minimum. Pure: all times are arguments.

use std::collections::VecDeque;
use std::time::Duration;

/// Minimum that a transfer must bring in any stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) span: Duration,
    /// Bytes; 0 for no minimum.
    pub(super) least: u64,
}

/// Readings that a window distinguishes.
const READINGS: u32 = 32;

/// Bytes received over time, as far back as it matters. Times count from the transfer's beginning.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    window: Window,
    /// Never empty. If fewer than the minimum came after a reading, the first reading is such a one.
    readings: VecDeque<Reading>,
    latest: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    /// Rounded up.
    at: Duration,
    /// Since the beginning.
    bytes: u64,
}

impl Progress {
    pub(super) fn begin(window: Window) -> Self {
        let readings = VecDeque::from([Reading { at: Duration::ZERO, bytes: 0 }]);
        Progress { window, readings, latest: Duration::ZERO }
    }

    /// Records `more` bytes at a time not before the last one.
    pub(super) fn note(&mut self, now: Duration, more: u64) {
        let at = rounded_up(now, self.window.span / READINGS);
        let bytes = self.bytes().saturating_add(more);
        self.latest = now;
        match self.readings.back_mut().filter(|last| last.at == at) {
            Some(last) => last.bytes = bytes,
            None => self.readings.push_back(Reading { at, bytes }),
        }
        while self.readings.len() > 1 && self.came_after(self.readings[0]) >= self.window.least {
            self.readings.pop_front();
        }
        // More readings than a window holds exist only if nobody had to wait for the transfer.
        while self.readings.len() > READINGS as usize + 2 {
            self.readings.pop_front();
        }
    }

    /// Replaces the window if the new one is longer.
    pub(super) fn widen(&mut self, window: Window) {
        if window.span > self.window.span {
            self.window = window;
        }
    }

    /// Time of the last bytes.
    pub(super) fn latest(&self) -> Duration {
        self.latest
    }

    /// When the first window with too few bytes ends, if nothing more arrives.
    pub(super) fn falls_short(&self) -> Duration {
        let first = self.readings[0];
        if self.came_after(first) >= self.window.least {
            Duration::MAX
        } else {
            first.at.saturating_add(self.window.span)
        }
    }

    fn came_after(&self, reading: Reading) -> u64 {
        self.bytes() - reading.bytes
    }

    fn bytes(&self) -> u64 {
        self.readings[self.readings.len() - 1].bytes
    }
}

fn rounded_up(time: Duration, grain: Duration) -> Duration {
    let grains = time.as_nanos().div_ceil(grain.as_nanos().max(1));
    grain.saturating_mul(u32::try_from(grains).unwrap_or(u32::MAX))
}

/// The progress of transfers given as (seconds, bytes).
#[cfg(test)]
pub(super) fn progress(window: Window, given: &[(u64, u64)]) -> Progress {
    let mut progress = Progress::begin(window);
    given.iter().for_each(|&(at, bytes)| progress.note(Duration::from_secs(at), bytes));
    progress
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 300 bytes in 32 seconds.
    const WINDOW: Window = Window { span: Duration::from_secs(32), least: 300 };

    #[test]
    fn a_window_that_brings_too_little_ends_a_transfer() {
        for (given, expected) in [
            (&[][..], 32),
            (&[(0, 1000)], 32),
            (&[(5, 299)], 32),
            (&[(5, 300)], 37),
            // The first 300 bytes are enough until the window begins after them.
            (&[(5, 300), (20, 100)], 37),
            (&[(5, 300), (20, 300)], 52),
            (&[(5, 1_000_000), (20, 299)], 37),
            (&[(5, 100), (10, 100), (15, 100), (20, 100), (25, 100)], 42 + 5),
        ] {
            assert_eq!(progress(WINDOW, given).falls_short(), Duration::from_secs(expected), "{given:?}");
        }
    }

    #[test]
    fn what_is_steady_goes_on_and_little_of_it_is_kept() {
        let mut steady = Progress::begin(WINDOW);
        for ms in (0..200_000).step_by(10) {
            let now = Duration::from_millis(ms);
            assert!(steady.falls_short() > now, "{now:?}");
            steady.note(now, u64::from(ms % 100 == 0));
        }
        assert!(steady.readings.len() <= READINGS as usize + 2);
    }

    #[test]
    fn without_a_least_nothing_falls_short() {
        let window = Window { least: 0, ..WINDOW };
        assert_eq!(progress(window, &[]).falls_short(), Duration::MAX);
        assert_eq!(progress(window, &[(0, 1), (1000, 0)]).falls_short(), Duration::MAX);
    }
}
