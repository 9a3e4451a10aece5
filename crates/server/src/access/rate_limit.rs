//! The rate limit of a key, in pictures: a token bucket that fills at a steady rate.

use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderName, HeaderValue};

/// The rate limit of one key: pictures a minute, and the burst after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Tokens added a minute.
    pub per_minute: NonZeroU32,
    /// Capacity of the bucket.
    pub burst: NonZeroU32,
}

impl FromStr for RateLimit {
    type Err = String;

    /// Parses `PICTURES_PER_MINUTE` or `PICTURES_PER_MINUTE:BURST`. Without a burst a minute's pictures may be
    /// requested at once.
    fn from_str(text: &str) -> Result<Self, String> {
        let (per_minute, burst) = text.split_once(':').unwrap_or((text, text));
        let number = |text: &str| text.parse().map_err(|_| "must be N or N:BURST, whole numbers of at least 1");
        Ok(RateLimit { per_minute: number(per_minute)?, burst: number(burst)? })
    }
}

impl RateLimit {
    /// Time in which one token is added.
    fn interval(self) -> Duration {
        Duration::from_secs(60) / self.per_minute.get()
    }

    /// Takes all `tokens` or none at `now`. The bucket's level is kept as the time at which it is full again: one token
    /// is missing for each interval until `full_at`.
    fn take(self, full_at: &mut Instant, tokens: u32, now: Instant) -> Standing {
        let (interval, most) = (self.interval(), self.interval() * self.burst.get());
        let taken = (*full_at).max(now) + interval * tokens;
        let refused_for = (taken - now).checked_sub(most).filter(|wait| !wait.is_zero());
        if refused_for.is_none() {
            *full_at = taken;
        }
        let reset = full_at.saturating_duration_since(now);
        let missing = reset.as_nanos().div_ceil(interval.as_nanos()) as u32;
        Standing { limit: self.burst.get(), remaining: self.burst.get().saturating_sub(missing), reset, refused_for }
    }
}

/// The state of a key's limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    limit: u32,
    remaining: u32,
    /// Time until the bucket is full.
    reset: Duration,
    /// Time until there are enough tokens, if there are too few.
    pub(crate) refused_for: Option<Duration>,
}

impl Standing {
    /// Writes OpenAI's headers.
    pub(crate) fn write(self, headers: &mut HeaderMap) {
        let mut write = |name, value| headers.insert(HeaderName::from_static(name), value);
        write("x-ratelimit-limit-requests", self.limit.into());
        write("x-ratelimit-remaining-requests", self.remaining.into());
        let reset = HeaderValue::from_str(&openai_duration(self.reset));
        write("x-ratelimit-reset-requests", reset.expect("digits and letters are printable. This is a bug."));
    }
}

/// Formats a duration as OpenAI does: `250ms`, `1s`, `6m0s`.
fn openai_duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64().ceil() as u64;
    match (duration.as_millis(), seconds) {
        (0..1000, _) => format!("{}ms", duration.as_millis()),
        (_, ..60) => format!("{seconds}s"),
        _ => format!("{}m{}s", seconds / 60, seconds % 60),
    }
}

/// One token bucket for each key.
#[derive(Debug)]
pub(super) struct RateLimiter {
    limit: RateLimit,
    full_at: Vec<Mutex<Instant>>,
}

impl RateLimiter {
    /// Full buckets for this many keys.
    pub(super) fn new(limit: RateLimit, keys: usize, now: Instant) -> Self {
        RateLimiter { limit, full_at: (0..keys).map(|_| Mutex::new(now)).collect() }
    }

    /// Takes all `tokens` of a key or none; with 0 tokens it only returns the state. `None` if there is no such key.
    pub(super) fn take(&self, key: usize, tokens: u32, now: Instant) -> Option<Standing> {
        let mut full_at = self.full_at.get(key)?.lock().unwrap_or_else(PoisonError::into_inner);
        Some(self.limit.take(&mut full_at, tokens, now))
    }

    /// Gives back tokens of a key whose request started nothing.
    pub(super) fn give_back(&self, key: usize, tokens: u32) {
        let Some(full_at) = self.full_at.get(key) else { return };
        let mut full_at = full_at.lock().unwrap_or_else(PoisonError::into_inner);
        *full_at = full_at.checked_sub(self.limit.interval() * tokens).unwrap_or(*full_at);
    }

    /// Capacity of a key's bucket.
    pub(super) fn burst(&self) -> u32 {
        self.limit.burst.get()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limit(text: &str) -> RateLimit {
        text.parse().unwrap()
    }

    #[test]
    fn a_limit_is_a_rate_and_a_burst() {
        let numbers = |text| (limit(text).per_minute.get(), limit(text).burst.get());
        assert_eq!(numbers("60"), (60, 60));
        assert_eq!(numbers("60:10"), (60, 10));
        for bad in ["", "0", "60:0", "60:", ":10", "1.5", "-1", "60/min", "60:10:1"] {
            assert!(bad.parse::<RateLimit>().is_err(), "{bad}");
        }
    }

    #[test]
    fn tokens_are_spent_and_come_back() {
        // One every two seconds, three at once.
        let (limit, start) = (limit("30:3"), Instant::now());
        let mut full_at = start;
        let mut take_n = |tokens, after: f64| {
            let standing = limit.take(&mut full_at, tokens, start + Duration::from_secs_f64(after));
            let wait = standing.refused_for.map_or(0.0, |wait| wait.as_secs_f64());
            (standing.remaining, standing.reset.as_secs_f64(), wait)
        };
        let mut take = |after| take_n(1, after);
        assert_eq!(take(0.0), (2, 2.0, 0.0));
        assert_eq!(take(0.0), (1, 4.0, 0.0));
        assert_eq!(take(0.0), (0, 6.0, 0.0));
        assert_eq!(take(0.0), (0, 6.0, 2.0));
        assert_eq!(take(1.5), (0, 4.5, 0.5));
        assert_eq!(take(2.0), (0, 6.0, 0.0));
        assert_eq!(take(100.0), (2, 2.0, 0.0));
        // All of several tokens or none; 0 tokens change nothing.
        assert_eq!(take_n(3, 100.0), (2, 2.0, 2.0));
        assert_eq!(take_n(0, 100.0), (2, 2.0, 0.0));
        assert_eq!(take_n(2, 100.0), (0, 6.0, 0.0));
        assert_eq!(take_n(0, 101.0), (0, 5.0, 0.0));
    }

    #[test]
    fn durations_are_written_as_openai_does() {
        let write = |seconds| openai_duration(Duration::from_secs_f64(seconds));
        let written = [0.0, 0.25, 1.0, 1.2, 59.5, 360.0].map(write);
        assert_eq!(written, ["0ms", "250ms", "1s", "2s", "1m0s", "6m0s"]);
    }

    #[test]
    fn one_key_does_not_spend_the_tokens_of_another() {
        let now = Instant::now();
        let limiter = RateLimiter::new(limit("60:1"), 2, now);
        let is_refused = |key| limiter.take(key, 1, now).unwrap().refused_for.is_some();
        assert_eq!([0, 0, 1, 1].map(is_refused), [false, true, false, true]);
        assert_eq!(limiter.take(2, 1, now), None);
        limiter.give_back(0, 1);
        assert_eq!([0, 0, 1].map(is_refused), [false, true, true], "what is given back is its own");
    }

    proptest! {
        #[test]
        fn no_stretch_of_time_sees_more_than_a_burst_and_its_rate(
            (per_minute, burst) in (1u32..200, 1u32..20),
            pauses in prop::collection::vec(0u64..3000, 1..100),
        ) {
            let (limit, start) = (limit(&format!("{per_minute}:{burst}")), Instant::now());
            let (mut full_at, mut now, mut taken) = (start, start, Vec::new());
            for pause in pauses {
                now += Duration::from_millis(pause);
                let standing = limit.take(&mut full_at, 1, now);
                match standing.refused_for {
                    None => taken.push(now),
                    // The wait is exact: a moment less is refused, and the wait itself is enough.
                    Some(wait) => {
                        let at = |at: Instant| limit.take(&mut full_at.clone(), 1, at).refused_for;
                        prop_assert!(at(now + wait - Duration::from_nanos(1)).is_some());
                        prop_assert_eq!(at(now + wait), None);
                    }
                }
            }
            for (i, first) in taken.iter().enumerate() {
                for (j, last) in taken.iter().enumerate().skip(i) {
                    let allowed = f64::from(burst) + (*last - *first).as_secs_f64() * f64::from(per_minute) / 60.0;
                    prop_assert!((j - i + 1) as f64 <= allowed + 1e-6);
                }
            }
        }
    }
}
