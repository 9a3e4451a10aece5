//! A guard that lives as long as a request.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// A value that is kept until the last clone of a request in this process is dropped, such as the memory reservation
/// for its pictures. It is not part of the request: it is not serialized, and does not count in comparisons.
#[derive(Clone, Default)]
pub struct Held(Option<Arc<dyn Any + Send + Sync>>);

impl Held {
    /// Holds `guard` until the last clone is dropped.
    pub fn new(guard: impl Any + Send + Sync) -> Self {
        Held(Some(Arc::new(guard)))
    }
}

impl PartialEq for Held {
    fn eq(&self, _: &Held) -> bool {
        true
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Held(..)" } else { "Held(nothing)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_lives_as_long_as_the_last_clone() {
        let guard = Arc::new(());
        let held = Held::new(guard.clone());
        let clone = held.clone();
        drop(held);
        assert_eq!(Arc::strong_count(&guard), 2);
        drop(clone);
        assert_eq!(Arc::strong_count(&guard), 1);
    }
}
