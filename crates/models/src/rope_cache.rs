//! Cache of rotary tables: a request needs the same table at every step.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Result;
use kernels::RopeTable;
use lru::LruCache;

use crate::kept_bytes::KeptBytes;

/// Rows and columns of each picture's tokens, starting with the one that is generated, and the number of text tokens.
pub(crate) type RopeKey = (Vec<(usize, usize)>, usize);

/// LRU cache of rotary tables.
pub(crate) struct RopeCache(Mutex<Tables>);

struct Tables {
    made: LruCache<RopeKey, Arc<RopeTable>>,
    /// Total bytes of all tables.
    bytes: usize,
    max_bytes: usize,
}

impl Default for RopeCache {
    fn default() -> Self {
        let max_bytes = KeptBytes::default().rope_tables;
        RopeCache(Mutex::new(Tables { made: LruCache::unbounded(), bytes: 0, max_bytes }))
    }
}

impl RopeCache {
    /// Limits the cache to `max_bytes` from now on.
    pub(crate) fn keep_at_most(&self, max_bytes: usize) {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tables.max_bytes = max_bytes;
        tables.make_way();
    }

    /// Returns the total bytes of all tables.
    pub(crate) fn bytes(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).bytes
    }

    /// Returns the table of `key`, made by `make` on a miss.
    ///
    /// # Errors
    /// `make` fails.
    pub(crate) fn get(&self, key: RopeKey, make: impl FnOnce(&RopeKey) -> Result<RopeTable>) -> Result<Arc<RopeTable>> {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = tables.made.get(&key) {
            return Ok(table.clone());
        }
        let table = Arc::new(make(&key)?);
        tables.bytes += bytes(&table);
        tables.made.push(key, table.clone());
        tables.make_way();
        Ok(table)
    }
}

impl Tables {
    fn make_way(&mut self) {
        while self.bytes > self.max_bytes
            && let Some((_, oldest)) = self.made.pop_lru()
        {
            self.bytes -= bytes(&oldest);
        }
    }
}

fn bytes(table: &RopeTable) -> usize {
    [table.cos(), table.sin()].iter().map(|table| table.elem_count() * table.dtype().size_in_bytes()).sum()
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

    fn table(positions: usize) -> Result<RopeTable> {
        let zeros = Tensor::zeros((positions, 64), candle_core::DType::F32, &Device::Cpu)?;
        RopeTable::new(&zeros, &zeros)
    }

    #[test]
    fn tables_are_bounded_by_their_bytes() {
        let cache = RopeCache::default();
        // 8 MiB each, so sixteen fit.
        for text in 0..20 {
            cache.get((vec![(128, 128)], text), |_| table(128 * 128)).unwrap();
        }
        let tables = cache.0.lock().unwrap();
        assert_eq!((tables.made.len(), tables.bytes), (16, 128 << 20));
        assert!(tables.made.contains(&(vec![(128, 128)], 19)) && !tables.made.contains(&(vec![(128, 128)], 3)));
        drop(tables);
        cache.keep_at_most(20 << 20);
        assert_eq!(cache.bytes(), 16 << 20, "two fit");
        cache.get((vec![(128, 128)], 20), |_| table(128 * 128)).unwrap();
        assert_eq!(cache.bytes(), 16 << 20);
    }
}
