//! Expected savings of step caches, from observed savings.

use crate::mean::Mean;

/// Maximum number of kinds of request that are remembered.
const MAX_KINDS: usize = 64;

/// The mean share of the blocks that steps computed, per kind of request.
#[derive(Debug, Default)]
pub(crate) struct Reuse {
    /// Most recently observed first.
    kinds: Vec<(u64, Mean)>,
}

impl Reuse {
    /// Expected share of the blocks that a step of this kind computes. A kind never seen is expected to compute all.
    /// Its first request may then wait a little for company that it could have had, but no promised time relies on a
    /// cache.
    pub(crate) fn expected(&self, kind: u64) -> f64 {
        self.kinds.iter().find(|known| known.0 == kind).map_or(1.0, |known| known.1.or(1.0))
    }

    /// Lower bound on the share that a step of this kind computes: 0 for a kind never seen.
    pub(crate) fn at_least(&self, kind: u64) -> f64 {
        self.kinds.iter().find(|known| known.0 == kind).map_or(0.0, |known| known.1.or(0.0))
    }

    /// Records that a step of this kind computed `share` of its blocks.
    pub(crate) fn observe(&mut self, kind: u64, share: f64) {
        match self.kinds.iter().position(|known| known.0 == kind) {
            Some(position) => self.kinds[..=position].rotate_right(1),
            None => {
                self.kinds.truncate(MAX_KINDS - 1);
                self.kinds.insert(0, (kind, Mean::default()));
            }
        }
        self.kinds[0].1.observe(share);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_expected_to_save_what_it_saved() {
        let mut reuse = Reuse::default();
        assert_eq!(reuse.expected(7), 1.0);
        [1.0, 0.25, 0.25].into_iter().for_each(|share| reuse.observe(7, share));
        assert_eq!(reuse.expected(7), 0.5);
        assert_eq!(reuse.expected(8), 1.0);
    }

    #[test]
    fn the_kinds_seen_last_are_remembered() {
        let mut reuse = Reuse::default();
        for kind in 0..MAX_KINDS as u64 {
            reuse.observe(kind, 0.5);
        }
        reuse.observe(0, 0.5);
        reuse.observe(1000, 0.5);
        assert_eq!([0, 1, 2, 1000].map(|kind| reuse.expected(kind)), [0.5, 1.0, 0.5, 0.5]);
        assert_eq!(reuse.kinds.len(), MAX_KINDS);
    }
}
