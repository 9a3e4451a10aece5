//! Bounds of the caches that serve later requests.

/// Bounds of the caches for later requests, in bytes. The least recently used entries are evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptBytes {
    /// Bytes of prompt and picture encodings.
    pub encodings: usize,
    /// Bytes of rotary tables. The tables of an edit of four one-megapixel pictures take 11 MiB.
    pub rope_tables: usize,
}

impl Default for KeptBytes {
    fn default() -> Self {
        KeptBytes { encodings: 256 << 20, rope_tables: 128 << 20 }
    }
}

impl KeptBytes {
    /// Returns bounds for a device whose requests may take `budget` bytes. Together they are less than a fifth of it,
    /// so that a request that takes the whole budget exceeds it only slightly.
    pub fn beside(budget: u64) -> Self {
        let at_most = |share: u64, most: usize| most.min(usize::try_from(budget / share).unwrap_or(usize::MAX));
        let KeptBytes { encodings, rope_tables } = KeptBytes::default();
        KeptBytes { encodings: at_most(8, encodings), rope_tables: at_most(16, rope_tables) }
    }

    /// Returns the sum of all bounds.
    pub fn all(self) -> u64 {
        (self.encodings + self.rope_tables) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_budget_keeps_little() {
        let kept = |budget| {
            let KeptBytes { encodings, rope_tables } = KeptBytes::beside(budget);
            (encodings, rope_tables)
        };
        assert_eq!(kept(64 << 30), (256 << 20, 128 << 20));
        assert_eq!(kept(1 << 30), (128 << 20, 64 << 20));
        assert_eq!(kept(0), (0, 0));
    }
}
