//! Fair shares: what each job would receive from evenly shared workers.
//!
//! The reference is processor sharing: the workers are shared evenly among the owners with jobs in hand, and each
//! owner's part evenly among its jobs. A job among n then takes n times as long as alone, and no flood of other owners'
//! jobs can delay it for longer. As in fair queueing (Demers, Keshav and Shenker, SIGCOMM 1989), each owner has a
//! virtual clock: it shows the service of a job that was there from the beginning.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::booked_job::JobId;

/// Fair shares of the jobs in hand.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sharing {
    now: Duration,
    owners: BTreeMap<u64, Part>,
}

/// An owner's part of the workers.
#[derive(Clone, Debug, Default)]
struct Part {
    /// The virtual clock.
    clock: Duration,
    /// Its reading at each job's arrival.
    jobs: BTreeMap<JobId, Duration>,
}

impl Sharing {
    pub(crate) fn join(&mut self, id: JobId, owner: u64) {
        let part = self.owners.entry(owner).or_default();
        part.jobs.insert(id, part.clock);
    }

    pub(crate) fn leave(&mut self, id: JobId) {
        self.owners.values_mut().for_each(|part| part.jobs.retain(|other, _| *other != id));
        self.owners.retain(|_, part| !part.jobs.is_empty());
    }

    /// Advances the clocks to `now` with this many workers. Each worker serves one job at most.
    pub(crate) fn advance(&mut self, now: Duration, workers: u32) {
        let passed = now.saturating_sub(self.now);
        self.now += passed;
        let n_owners = self.owners.len();
        for part in self.owners.values_mut() {
            let n = n_owners * part.jobs.len();
            part.clock += passed.mul_f64((f64::from(workers) / n as f64).min(1.0));
        }
    }

    /// Accumulated share of a job in hand, in worker time.
    pub(crate) fn share(&self, id: JobId, owner: u64) -> Duration {
        let part = self.owners.get(&owner);
        part.and_then(|part| Some(part.clock - *part.jobs.get(&id)?)).unwrap_or_default()
    }

    /// Number of this owner's jobs in hand.
    pub(crate) fn n_jobs(&self, owner: u64) -> usize {
        self.owners.get(&owner).map_or(0, |part| part.jobs.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Shares of the (job, owner) pairs, to the millisecond.
    fn shares<const N: usize>(sharing: &Sharing, jobs: [(JobId, u64); N]) -> [f64; N] {
        jobs.map(|(id, owner)| (sharing.share(id, owner).as_secs_f64() * 1e3).round() / 1e3)
    }

    /// Shares after `seconds` seconds with one job for each entry of `owners`.
    fn shared(owners: &[u64], seconds: u32, workers: u32) -> Sharing {
        let mut sharing = Sharing::default();
        (0..).zip(owners).for_each(|(id, &owner)| sharing.join(id, owner));
        (1..=seconds).for_each(|second| sharing.advance(SECOND * second, workers));
        sharing
    }

    #[test]
    fn a_job_among_n_has_one_part_in_n() {
        assert_eq!(shares(&shared(&[1], 12, 1), [(0, 1)]), [12.0]);
        assert_eq!(shares(&shared(&[1, 1, 1], 12, 1), [(0, 1), (2, 1)]), [4.0; 2]);
        assert_eq!(shares(&shared(&[1, 1, 1], 12, 2), [(0, 1)]), [8.0]);
        assert_eq!(shares(&shared(&[1], 12, 2), [(0, 1)]), [12.0], "one worker at most");
    }

    #[test]
    fn owners_share_and_each_shares_its_part() {
        assert_eq!(shares(&shared(&[1, 1, 1, 2], 12, 1), [(0, 1), (3, 2)]), [2.0, 6.0]);
    }

    #[test]
    fn who_comes_later_shares_from_then_on() {
        let mut sharing = shared(&[1, 2], 12, 1);
        sharing.join(2, 1);
        sharing.advance(SECOND * 24, 1);
        assert_eq!(shares(&sharing, [(0, 1), (2, 1), (1, 2)]), [9.0, 3.0, 12.0]);
        sharing.leave(1);
        sharing.advance(SECOND * 26, 1);
        assert_eq!(shares(&sharing, [(2, 1)]), [4.0], "what another leaves is shared too");
    }

    #[test]
    fn time_without_jobs_is_saved_up_by_nobody() {
        let mut sharing = shared(&[1], 12, 1);
        sharing.leave(0);
        sharing.advance(SECOND * 100, 1);
        sharing.join(1, 1);
        sharing.advance(SECOND * 101, 1);
        assert_eq!(shares(&sharing, [(1, 1), (0, 1)]), [1.0, 0.0]);
    }
}
