//! Ending an operation early once nobody waits for what it computes.
//!
//! Whoever drives a model says inside of which work, and how to ask ([`interruptible`]); no layer between there and
//! here passes anything on. An operation asks for the watch of its own thread before it hands parts to the pool, and
//! the parts take it along: a thread of the pool may be at another scope's work by then. Asking costs a relaxed load
//! or two, a tile takes 10 us at least.
//!
//! What an interrupted operation has written is not whole. So an operation looks once more when all of its parts are
//! done, and answers an error if the watch says stop: what is set stays set, so no part that left early goes
//! unnoticed.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use candle_core::{Error, Result};

thread_local! {
    static CURRENT: RefCell<Watch> = const { RefCell::new(Watch(None)) };
}

/// Runs `work` so that the operations inside end early, with an error, once `is_set` says so. It must not say no
/// again after it said yes. A scope inside another is ended by either.
///
/// It holds for this thread and for where [`in_pool`](crate::in_pool) takes the work.
pub fn interruptible<R>(is_set: impl Fn() -> bool + Send + Sync + 'static, work: impl FnOnce() -> R) -> R {
    let outer = Watch::current();
    Watch(Some(Arc::new(move || outer.is_set() || is_set()))).scope(work)
}

/// An error if the scope that this is called in was interrupted: for between two blocks.
///
/// # Errors
/// It was.
pub fn check_interrupt() -> Result<()> {
    if Watch::current().is_set() {
        // Without a backtrace, which `RUST_BACKTRACE=1` would have resolved: 0.1 s for nobody to read.
        return Err(Error::Msg("interrupted".into()));
    }
    Ok(())
}

/// What the parts of an operation ask whether to go on.
#[derive(Clone)]
pub struct Watch(Option<Arc<dyn Fn() -> bool + Send + Sync>>);

impl Watch {
    /// That of the scope which this thread is in; outside of all it never says stop.
    pub fn current() -> Self {
        CURRENT.with_borrow(Watch::clone)
    }

    /// Whether to stop. It stays so.
    #[inline]
    pub fn is_set(&self) -> bool {
        self.0.as_ref().is_some_and(|is_set| is_set())
    }

    /// Runs `work` under this watch, on whatever thread it came to.
    pub(crate) fn scope<R>(self, work: impl FnOnce() -> R) -> R {
        struct Restore(Option<Watch>);
        impl Drop for Restore {
            fn drop(&mut self) {
                if let Some(outer) = self.0.take() {
                    CURRENT.replace(outer);
                }
            }
        }
        let _restore = Restore(Some(CURRENT.replace(self)));
        work()
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watch({})", self.is_set())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use candle_core::Device;

    use super::*;
    use crate::in_pool;

    fn flag() -> (Arc<AtomicBool>, impl Fn() -> bool + Send + Sync + 'static) {
        let flag = Arc::new(AtomicBool::new(false));
        let seen = flag.clone();
        (flag, move || seen.load(Ordering::Relaxed))
    }

    #[test]
    fn a_scope_is_ended_by_its_own_flag_and_by_those_around_it() {
        let ((outer, outer_is_set), (inner, inner_is_set)) = (flag(), flag());
        interruptible(outer_is_set, || {
            interruptible(inner_is_set, || {
                assert!(check_interrupt().is_ok());
                inner.store(true, Ordering::Relaxed);
                assert!(check_interrupt().unwrap_err().to_string().starts_with("interrupted"));
            });
            assert!(check_interrupt().is_ok(), "the inner flag is not ours");
            outer.store(true, Ordering::Relaxed);
            assert!(interruptible(|| false, check_interrupt).is_err());
        });
        assert!(check_interrupt().is_ok());
    }

    #[test]
    fn the_scope_goes_along_to_the_pool_and_not_beyond() {
        interruptible(|| true, || assert!(in_pool(&Device::Cpu, check_interrupt).is_err()));
        assert!(in_pool(&Device::Cpu, check_interrupt).is_ok());
    }

    #[test]
    fn a_panic_leaves_no_scope_behind() {
        let panicked = std::panic::catch_unwind(|| interruptible(|| true, || panic!("inside")));
        assert!(panicked.is_err() && check_interrupt().is_ok());
    }
}
