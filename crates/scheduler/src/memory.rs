//! How much the jobs of one lane may hold: what the operator says, and what running out has taught.
//!
//! A job's estimate is of what it carries from step to step. What its steps need beside that depends on
//! their company, the device and its other users, and shows only when it is too much.

/// The bound of a lane, in bytes of estimates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MemoryBound {
    /// What was held and fitted, when a little more did not.
    learnt: Option<u64>,
}

impl MemoryBound {
    /// The lane ran out of memory while it held these jobs. Without the largest, which fails, they are
    /// taken to fit. A job that was alone says nothing of company.
    pub(crate) fn ran_out(&mut self, held: &[u64]) {
        let Some(largest) = held.iter().max().filter(|_| held.len() > 1) else { return };
        let rest = held.iter().sum::<u64>() - largest;
        self.learnt = Some(self.learnt.map_or(rest, |learnt| learnt.min(rest)));
    }

    /// What the lane may hold beside these jobs within the operator's `budget`. A lane that holds nothing
    /// may hold any job that was admitted: otherwise it would wait for ever.
    pub(crate) fn room(&self, budget: Option<u64>, held: &[u64]) -> u64 {
        let learnt = self.learnt.filter(|_| !held.is_empty());
        let bound = budget.into_iter().chain(learnt).min().unwrap_or(u64::MAX);
        bound.saturating_sub(held.iter().sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(failures: &[&[u64]]) -> MemoryBound {
        let mut bound = MemoryBound::default();
        failures.iter().for_each(|held| bound.ran_out(held));
        bound
    }

    #[test]
    fn what_ran_out_is_not_held_again() {
        let bound = after(&[&[30, 50, 20]]);
        assert_eq!(bound.room(None, &[30, 20]), 0, "nothing takes the place of the one that failed");
        assert_eq!(bound.room(None, &[30]), 20);
        assert_eq!(bound.room(Some(40), &[30]), 10, "the operator's budget is less");
    }

    #[test]
    fn the_least_that_was_learnt_counts() {
        for failures in [[&[30, 30, 40][..], &[10, 20, 25]], [&[10, 20, 25], &[30, 30, 40]]] {
            assert_eq!(after(&failures).room(None, &[10]), 20);
        }
    }

    #[test]
    fn a_job_alone_teaches_nothing_and_is_never_shut_out() {
        assert_eq!(after(&[&[70]]), MemoryBound::default());
        let bound = after(&[&[30, 50]]);
        assert_eq!(bound.room(Some(100), &[]), 100);
        assert_eq!(bound.room(None, &[]), u64::MAX);
        assert_eq!(bound.room(Some(100), &[40]), 0);
    }
}
