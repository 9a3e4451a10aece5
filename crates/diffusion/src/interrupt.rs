//! Interrupts work whose result nobody waits for any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A flag that any thread may set once. A [`Pipeline`](crate::Pipeline) checks it between the parts of its work. Clones
/// share the flag.
///
/// It carries no data: the pipeline stops when it sees the flag set, and the partial result is discarded.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Stops all work that checks this flag. It cannot be reset.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the work should stop.
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
