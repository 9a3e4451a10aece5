//! Rotary tables that are made once: a request needs the same one at every step.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Result;
use kernels::RopeTable;

/// Rows and columns of each picture's tokens, the one being made first, and the text tokens.
pub(crate) type RopeKey = (Vec<(usize, usize)>, usize);

/// A server sees few sizes but many prompt lengths; past this many the tables are dropped and made anew.
const MAX_TABLES: usize = 256;

/// The tables that were made, by what they are of.
#[derive(Default)]
pub(crate) struct RopeCache(Mutex<HashMap<RopeKey, Arc<RopeTable>>>);

impl RopeCache {
    /// The table of `key`, by `make` if there is none yet.
    ///
    /// # Errors
    /// Those of `make`.
    pub(crate) fn get(&self, key: RopeKey, make: impl FnOnce(&RopeKey) -> Result<RopeTable>) -> Result<Arc<RopeTable>> {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = made.get(&key) {
            return Ok(table.clone());
        }
        let table = Arc::new(make(&key)?);
        if made.len() >= MAX_TABLES {
            made.clear();
        }
        made.insert(key, table.clone());
        Ok(table)
    }
}
