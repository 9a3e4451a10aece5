//! The gate that steps wait for, and interruptible delays.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use diffusion::{Interrupt, PipelineError};

/// Blocks steps until they are let through; initially open.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<(Mutex<Allowed>, Condvar)>);

#[derive(Debug, Default)]
enum Allowed {
    #[default]
    Any,
    Steps(usize),
}

impl Gate {
    /// A gate that lets nothing through yet.
    pub fn closed() -> Self {
        let gate = Gate::default();
        gate.set(Allowed::Steps(0));
        gate
    }

    /// Lets the next `steps` steps through, and no more.
    pub fn allow(&self, steps: usize) {
        self.set(Allowed::Steps(steps));
    }

    /// Lets everything through from now on.
    pub fn open(&self) {
        self.set(Allowed::Any);
    }

    fn set(&self, allowed: Allowed) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = allowed;
        self.0.1.notify_all();
    }

    pub(super) fn pass(&self, interrupt: &Interrupt) -> Result<(), PipelineError> {
        let mut allowed = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        while let Allowed::Steps(0) = *allowed {
            go_on(interrupt)?;
            allowed = self.0.1.wait_timeout(allowed, LOOK_EVERY).unwrap_or_else(PoisonError::into_inner).0;
        }
        if let Allowed::Steps(left) = &mut *allowed {
            *left -= 1;
        }
        Ok(())
    }
}

/// Interval at which waiting code checks its interrupt.
const LOOK_EVERY: Duration = Duration::from_millis(1);

pub(super) fn go_on(interrupt: &Interrupt) -> Result<(), PipelineError> {
    if interrupt.is_set() { Err(PipelineError::Interrupted) } else { Ok(()) }
}

/// Sleeps for at least `delay`, unless interrupted.
pub(super) fn sleep(delay: Duration, interrupt: &Interrupt) -> Result<(), PipelineError> {
    let begun = Instant::now();
    while let Some(left) = delay.checked_sub(begun.elapsed()) {
        go_on(interrupt)?;
        std::thread::sleep(left.min(LOOK_EVERY));
    }
    go_on(interrupt)
}
