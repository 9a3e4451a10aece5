//! Early end of an operation whose result is no longer needed.
//!
//! The caller of a model opens a scope with a stop condition ([`interruptible`]); the layers in between pass nothing
//! along. An operation reads the watch of its thread before it hands parts to the pool. The parts carry the watch
//! along, because a thread of the pool may then work for another scope. A check costs one or two relaxed loads; a tile
//! takes at least 10 us.
//!
//! The output of an interrupted operation is incomplete. So an operation checks once more when all of its parts are
//! done, and returns an error if the watch is set. A set watch stays set, so no part that ended early goes unnoticed.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use candle_core::{Error, Result};

thread_local! {
    static CURRENT: RefCell<Watch> = const { RefCell::new(Watch(None)) };
}

/// Runs `work` so that the operations inside end early, with an error, once `is_set` returns true. It must not return
/// false again after that. The condition of an outer scope ends an inner scope too.
///
/// The scope covers this thread and the thread to which [`in_pool`](crate::in_pool) moves the work.
pub fn interruptible<R>(is_set: impl Fn() -> bool + Send + Sync + 'static, work: impl FnOnce() -> R) -> R {
    let outer = Watch::current();
    Watch(Some(Arc::new(move || outer.is_set() || is_set()))).scope(work)
}

/// Returns an error if the current scope was interrupted. Call it between two blocks.
///
/// # Errors
/// The scope was interrupted.
pub fn check_interrupt() -> Result<()> {
    if Watch::current().is_set() {
        // Without a backtrace: `RUST_BACKTRACE=1` would resolve it, which takes 0.1 s, and nobody reads it.
        return Err(Error::Msg("interrupted".into()));
    }
    Ok(())
}

/// The stop condition that the parts of an operation check.
#[derive(Clone)]
pub struct Watch(Option<Arc<dyn Fn() -> bool + Send + Sync>>);

impl Watch {
    /// The watch of this thread's scope. Outside every scope it is never set.
    pub fn current() -> Self {
        CURRENT.with_borrow(Watch::clone)
    }

    /// Whether to stop. Once true, it stays true.
    #[inline]
    pub fn is_set(&self) -> bool {
        self.0.as_ref().is_some_and(|is_set| is_set())
    }

    /// Runs `work` on the current thread under this watch.
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
