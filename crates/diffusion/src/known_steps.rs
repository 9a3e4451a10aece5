//! The computed steps of a request, if they are known before the run.

use std::ops::Range;

/// The steps that compute all passes of a request; every other step reuses what it can. A plan or a static mask fixes
/// them beforehand.
///
/// A bit set, because copying and counting must be cheap: the scheduler asks for the remaining work of each job at
/// every turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KnownSteps {
    computed: [u64; WORDS],
}

const WORDS: usize = 4;

impl KnownSteps {
    /// Maximum number of steps in the set. A longer request is predicted from what requests of its kind computed.
    pub const MOST: usize = WORDS * u64::BITS as usize;

    /// Builds the set from one flag per step, true if the step is computed; `None` for too many steps.
    pub fn new(steps: impl IntoIterator<Item = bool>) -> Option<Self> {
        let mut known = KnownSteps::default();
        for (step, is_computed) in steps.into_iter().enumerate() {
            if step >= KnownSteps::MOST {
                return None;
            }
            if is_computed {
                known.compute(step..step + 1);
            }
        }
        Some(known)
    }

    /// Whether this step is computed.
    pub fn computes(&self, step: usize) -> bool {
        self.computed.get(step / 64).is_some_and(|word| word >> (step % 64) & 1 == 1)
    }

    /// Number of computed steps from `step` on.
    pub fn computed_from(&self, step: usize) -> usize {
        let words = self.computed.iter().enumerate();
        words.map(|(i, word)| (word & from(step.saturating_sub(64 * i))).count_ones() as usize).sum()
    }

    /// Marks these steps as computed, up to [`KnownSteps::MOST`].
    pub fn compute(&mut self, steps: Range<usize>) {
        let steps = steps.start..steps.end.min(KnownSteps::MOST);
        steps.for_each(|step| self.computed[step / 64] |= 1 << (step % 64));
    }
}

/// The mask of the bits from `bit` on.
fn from(bit: usize) -> u64 {
    if bit < 64 { u64::MAX << bit } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_counted_from_each_on_as_one_by_one() {
        // Some bits in each word, on both sides of each word boundary.
        let flags: Vec<_> = (0..KnownSteps::MOST).map(|step| step % 5 == 0 || step % 64 == 63).collect();
        let known = KnownSteps::new(flags.iter().copied()).unwrap();
        for from in 0..KnownSteps::MOST + 70 {
            let expected = flags.iter().skip(from).filter(|computed| **computed).count();
            assert_eq!(known.computed_from(from), expected, "from {from}");
            assert_eq!(known.computes(from), flags.get(from) == Some(&true), "{from}");
        }
        assert_eq!(KnownSteps::new(flags.into_iter().chain([false])), None, "one too many");
    }

    #[test]
    fn steps_that_are_added_are_computed_too() {
        let mut known = KnownSteps::new([true, false, false, false, true]).unwrap();
        known.compute(1..3);
        assert_eq!(known, KnownSteps::new([true, true, true, false, true]).unwrap());
        known.compute(250..300);
        assert_eq!(known.computed_from(5), 6);
    }
}
