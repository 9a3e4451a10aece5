//! Telling a pipeline that nobody waits any more for what it is at.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A flag that is set once, from any thread, and that a [`Pipeline`](crate::Pipeline) looks at between the parts
/// of its work. Clones are the same flag.
///
/// It carries no data: whoever sees it set stops, and what was computed is thrown away.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Stops whatever looks at this flag. There is no way back.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the work is to stop.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_are_one_flag() {
        let interrupt = Interrupt::default();
        let seen = interrupt.clone();
        assert!(!seen.is_set());
        std::thread::spawn(move || interrupt.set()).join().unwrap();
        assert!(seen.is_set() && !Interrupt::default().is_set());
    }
}
