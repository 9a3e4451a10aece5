//! The wait before a failed operation is retried.

use std::time::Duration;

/// Exponential backoff: the wait doubles with each failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The wait after the first failure.
    pub first: Duration,
    /// The maximum wait.
    pub most: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { first: Duration::from_secs(1), most: Duration::from_secs(60) }
    }
}

impl Backoff {
    /// The wait after `failures` failures in a row; zero after none.
    pub fn after(&self, failures: u32) -> Duration {
        match failures.checked_sub(1) {
            None => Duration::ZERO,
            Some(doublings) => self.first.saturating_mul(2_u32.saturating_pow(doublings)).min(self.most),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let waits = [0, 1, 2, 3, 6, 7, 8, u32::MAX].map(|failures| Backoff::default().after(failures).as_secs());
        assert_eq!(waits, [0, 1, 2, 4, 32, 60, 60, 60]);
    }

    proptest! {
        #[test]
        fn waits_never_shrink_and_are_bounded(first in 0..1000_u64, most in 0..100_000_u64, failures in 0..100_u32) {
            let backoff = Backoff { first: Duration::from_millis(first), most: Duration::from_millis(most) };
            prop_assert!(backoff.after(failures) <= backoff.after(failures + 1));
            prop_assert!(backoff.after(failures) <= backoff.most);
        }
    }
}
