//! Rotary tables that are made once: a request needs the same one at every step.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Result;
use kernels::RopeTable;
use lru::LruCache;

/// Rows and columns of each picture's tokens, the one being made first, and the text tokens.
pub(crate) type RopeKey = (Vec<(usize, usize)>, usize);

/// Most bytes of tables: those of an edit of four pictures, each of a megapixel, are 11 MiB.
const MAX_BYTES: usize = 128 << 20;

/// The tables that were made, by what they are of; the least recently used make way.
pub(crate) struct RopeCache(Mutex<Tables>);

struct Tables {
    made: LruCache<RopeKey, Arc<RopeTable>>,
    bytes: usize,
}

impl Default for RopeCache {
    fn default() -> Self {
        RopeCache(Mutex::new(Tables { made: LruCache::unbounded(), bytes: 0 }))
    }
}

impl RopeCache {
    /// Of all tables.
    pub(crate) fn bytes(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).bytes
    }

    /// The table of `key`, by `make` if there is none yet.
    ///
    /// # Errors
    /// Those of `make`.
    pub(crate) fn get(&self, key: RopeKey, make: impl FnOnce(&RopeKey) -> Result<RopeTable>) -> Result<Arc<RopeTable>> {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = tables.made.get(&key) {
            return Ok(table.clone());
        }
        let table = Arc::new(make(&key)?);
        tables.bytes += bytes(&table);
        tables.made.push(key, table.clone());
        while tables.bytes > MAX_BYTES
            && let Some((_, oldest)) = tables.made.pop_lru()
        {
            tables.bytes -= bytes(&oldest);
        }
        Ok(table)
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
        // 8 MiB each: sixteen fit.
        for text in 0..20 {
            cache.get((vec![(128, 128)], text), |_| table(128 * 128)).unwrap();
        }
        let tables = cache.0.lock().unwrap();
        assert_eq!((tables.made.len(), tables.bytes), (16, MAX_BYTES));
        assert!(tables.made.contains(&(vec![(128, 128)], 19)) && !tables.made.contains(&(vec![(128, 128)], 3)));
    }
}
