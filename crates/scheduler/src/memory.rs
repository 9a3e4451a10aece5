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
    /// The lane ran out of memory, and without the job that failed it holds `left`, which is taken to fit. A
    /// job that was alone says nothing of company.
    pub(crate) fn ran_out(&mut self, left: u64) {
        if left > 0 {
            self.learnt = Some(self.learnt.map_or(left, |learnt| learnt.min(left)));
        }
    }

    /// What the lane may hold beside the `held` bytes within the operator's `budget`. A lane that holds nothing
    /// may hold any job that was admitted: otherwise it would wait for ever.
    pub(crate) fn room(&self, budget: Option<u64>, held: u64) -> u64 {
        let learnt = self.learnt.filter(|_| held > 0);
        let bound = budget.into_iter().chain(learnt).min().unwrap_or(u64::MAX);
        bound.saturating_sub(held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(left: &[u64]) -> MemoryBound {
        let mut bound = MemoryBound::default();
        left.iter().for_each(|&left| bound.ran_out(left));
        bound
    }

    #[test]
    fn what_ran_out_is_not_held_again() {
        let bound = after(&[50]);
        assert_eq!(bound.room(None, 50), 0, "nothing takes the place of the one that failed");
        assert_eq!(bound.room(None, 30), 20);
        assert_eq!(bound.room(Some(40), 30), 10, "the operator's budget is less");
    }

    #[test]
    fn the_least_that_was_learnt_counts() {
        for left in [[60, 30], [30, 60]] {
            assert_eq!(after(&left).room(None, 10), 20);
        }
    }

    #[test]
    fn a_job_alone_teaches_nothing_and_is_never_shut_out() {
        assert_eq!(after(&[0]), MemoryBound::default());
        let bound = after(&[30]);
        assert_eq!(bound.room(Some(100), 0), 100);
        assert_eq!(bound.room(None, 0), u64::MAX);
        assert_eq!(bound.room(Some(100), 40), 0);
    }
}
