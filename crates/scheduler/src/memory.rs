//! Memory bound of a lane: the operator's setting, and what running out of memory has taught.
//!
//! Estimates cover neither other users of the device nor memory fragmentation. So running out of memory lowers the
//! bound to a fraction of the request that failed. Successful turns raise it again until it is removed, because the
//! failure may have been caused by another process. Each further failure doubles the number of turns that this takes,
//! so that a correct bound costs a failed step only now and then.

/// Fraction of a failed bound that remains, in eighths.
const CUT: u64 = 7;

/// Successful turns before the bound is raised: initially, and at most.
const PATIENCE: (u32, u32) = (16, 1024);

/// The bound of a lane, in bytes of estimates: all states that it holds plus the turn with the largest need beside
/// them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemoryBound {
    learnt: Option<Learnt>,
    /// Successful turns since the last change of the bound.
    went_well: u32,
    /// Successful turns needed for the next change.
    patience: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Learnt {
    bound: u64,
    /// The largest failed need. The bound is removed once it would reach this again.
    too_much: u64,
}

impl Default for MemoryBound {
    fn default() -> Self {
        MemoryBound { learnt: None, went_well: 0, patience: PATIENCE.0 }
    }
}

impl MemoryBound {
    /// Records that a turn ran out of memory with this need. Call it only if other jobs were held too: a single job
    /// says nothing about what fits together.
    pub(crate) fn ran_out(&mut self, needed: u64) {
        let known = self.learnt.unwrap_or(Learnt { bound: needed, too_much: needed });
        let bound = needed.min(known.bound);
        let learnt = Learnt { bound: bound / 8 * CUT + bound % 8 * CUT / 8, too_much: known.too_much.max(needed) };
        // Jobs of one batch that run out one after another count as one failure.
        let patience = if self.went_well > 0 || self.learnt.is_none() { self.patience * 2 } else { self.patience };
        *self = MemoryBound { learnt: Some(learnt), went_well: 0, patience: patience.min(PATIENCE.1) };
    }

    /// Records a successful turn.
    pub(crate) fn went_well(&mut self) {
        self.went_well += 1;
        if self.went_well < self.patience {
            return;
        }
        self.went_well = 0;
        let Some(Learnt { bound, too_much }) = self.learnt else {
            self.patience = (self.patience / 2).max(PATIENCE.0);
            return;
        };
        let raised = bound.saturating_add(bound / CUT + 1);
        self.learnt = (raised < too_much).then_some(Learnt { bound: raised, too_much });
    }

    /// Maximum need of the lane's jobs, within the operator's `budget`.
    pub(crate) fn most(&self, budget: Option<u64>) -> u64 {
        budget.into_iter().chain(self.learnt.map(|learnt| learnt.bound)).min().unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn after(needed: &[u64]) -> MemoryBound {
        let mut bound = MemoryBound::default();
        needed.iter().for_each(|&needed| bound.ran_out(needed));
        bound
    }

    /// Number of successful turns until the bound is removed.
    fn turns_until_forgotten(bound: &mut MemoryBound) -> u32 {
        for turns in 0.. {
            if bound.learnt.is_none() {
                return turns;
            }
            bound.went_well();
        }
        unreachable!()
    }

    #[test]
    fn what_was_too_much_is_not_tried_again() {
        let bound = after(&[80]);
        assert_eq!(bound.most(None), 70);
        assert_eq!(bound.most(Some(60)), 60, "the operator's budget is less");
        assert_eq!(after(&[80, 70]).most(None), 61);
        assert_eq!(after(&[80, 800]).most(None), 61, "it was more than the bound, but that was too much too");
    }

    #[test]
    fn a_bound_is_forgotten_when_turns_go_well() {
        let mut bound = after(&[80]);
        assert_eq!(turns_until_forgotten(&mut bound), 32);
        assert_eq!(bound.most(Some(1000)), 1000);
    }

    #[test]
    fn what_runs_out_again_and_again_is_tried_ever_more_rarely() {
        let mut bound = MemoryBound::default();
        let turns: Vec<_> = (0..8)
            .map(|_| {
                bound.ran_out(80);
                turns_until_forgotten(&mut bound)
            })
            .collect();
        assert_eq!(turns, [32, 64, 128, 256, 512, 1024, 1024, 1024]);
        (0..20_000).for_each(|_| bound.went_well());
        bound.ran_out(80);
        assert_eq!(turns_until_forgotten(&mut bound), 32, "that was long ago");
    }

    #[derive(Clone, Debug)]
    enum Lesson {
        RanOut(u64),
        WentWell(u16),
    }

    fn any_lessons() -> impl Strategy<Value = Vec<Lesson>> {
        let lesson = prop_oneof![
            (1..u64::MAX).prop_map(Lesson::RanOut),
            (1..1000_u64).prop_map(Lesson::RanOut),
            any::<u16>().prop_map(Lesson::WentWell),
        ];
        prop::collection::vec(lesson, 0..30)
    }

    proptest! {
        /// For any sequence: running out lowers the bound below the failed need, success never lowers it, the
        /// operator's budget holds, and enough successes remove the bound.
        #[test]
        fn a_bound_falls_by_failures_and_grows_back_by_successes(lessons in any_lessons(), budget in 1..u64::MAX) {
            let mut bound = MemoryBound::default();
            for lesson in lessons {
                let before = bound.most(None);
                match lesson {
                    Lesson::RanOut(needed) => {
                        bound.ran_out(needed);
                        prop_assert!(bound.most(None) < needed && bound.most(None) <= before.saturating_sub(1));
                    }
                    Lesson::WentWell(times) => {
                        (0..times).for_each(|_| bound.went_well());
                        prop_assert!(bound.most(None) >= before);
                    }
                }
                prop_assert!(bound.most(Some(budget)) <= budget);
                prop_assert!(bound.patience >= PATIENCE.0 && bound.patience <= PATIENCE.1);
            }
            // Enough for a bound to grow from 1 to 2^64 in steps of an eighth.
            (0..340 * PATIENCE.1).for_each(|_| bound.went_well());
            prop_assert_eq!(bound.most(None), u64::MAX);
        }
    }
}
