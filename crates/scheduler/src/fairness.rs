//! Who has had how much of the workers.
//!
//! Virtual-time counters, as in "Fairness in Serving Large Language Models" (arXiv 2401.00588): an
//! owner's counter grows with the seconds that its jobs were served. An owner that comes back does
//! so no lower than the lowest of those who have jobs in hand: nobody saves time up.

use std::collections::BTreeMap;
use std::time::Duration;

/// The counters of the owners.
#[derive(Debug, Default)]
pub(crate) struct Fairness {
    served: BTreeMap<u64, Duration>,
}

impl Fairness {
    /// A turn served this owner for so long.
    pub(crate) fn charge(&mut self, owner: u64, took: Duration) {
        *self.served.entry(owner).or_default() += took;
    }

    /// `owner` puts a job in line, while those of `active` have jobs in hand. An owner without jobs is
    /// forgotten once the others have caught up with it, and all are when nobody has any.
    pub(crate) fn join(&mut self, owner: u64, active: &[u64]) {
        let floor = self.floor(active);
        self.served.retain(|known, served| active.contains(known) || !active.is_empty() && *served > floor);
        let served = self.served.entry(owner).or_default();
        *served = floor.max(*served);
    }

    /// The lowest counter of those with jobs in hand.
    pub(crate) fn floor(&self, active: &[u64]) -> Duration {
        active.iter().map(|owner| self.served.get(owner).copied().unwrap_or_default()).min().unwrap_or_default()
    }

    /// How far an owner is ahead of `floor`, in whole multiples of `quantum`.
    pub(crate) fn level(&self, owner: u64, floor: Duration, quantum: Duration) -> u64 {
        let ahead = self.served.get(&owner).copied().unwrap_or_default().saturating_sub(floor);
        ahead.as_nanos().checked_div(quantum.as_nanos()).unwrap_or(0) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_owner_is_as_many_levels_up_as_it_is_whole_jobs_ahead() {
        let mut fairness = Fairness::default();
        fairness.charge(1, SECOND * 25);
        fairness.charge(2, SECOND * 5);
        let floor = fairness.floor(&[1, 2]);
        assert_eq!([1, 2, 3].map(|owner| fairness.level(owner, floor, SECOND * 10)), [2, 0, 0]);
        assert_eq!(fairness.level(1, floor, Duration::ZERO), 0);
    }

    #[test]
    fn a_newcomer_is_level_with_the_least_served() {
        let mut fairness = Fairness::default();
        fairness.charge(1, SECOND * 30);
        fairness.charge(2, SECOND * 20);
        fairness.join(3, &[1, 2]);
        assert_eq!(fairness.served[&3], SECOND * 20);
        fairness.charge(3, SECOND);
        fairness.join(3, &[1, 2]);
        assert_eq!(fairness.served[&3], SECOND * 21, "nobody loses what was served");
    }

    #[test]
    fn owners_that_the_others_caught_up_with_are_forgotten() {
        let mut fairness = Fairness::default();
        fairness.charge(1, SECOND * 30);
        fairness.charge(2, SECOND * 20);
        fairness.charge(3, SECOND * 40);
        fairness.join(1, &[1]);
        assert_eq!(fairness.served.keys().copied().collect::<Vec<_>>(), [1, 3]);
        fairness.join(4, &[]);
        assert_eq!(fairness.served.keys().copied().collect::<Vec<_>>(), [4]);
    }
}
