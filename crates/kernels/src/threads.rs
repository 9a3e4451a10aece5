//! How many threads the CPU operations use.

#![allow(unsafe_code, reason = "std::env::set_var is unsafe; it is called before there are threads")]

use candle_core::Device;

use crate::Watch;

/// Fixes the number of worker threads for the life of the process: call it first thing in
/// `main`.
///
/// candle asks the operating system for the number of CPUs at every matrix product unless
/// `RAYON_NUM_THREADS` is set, 35 us each time. This sets it, and `CANDLE_NUM_THREADS` for
/// candle's elementwise operations, to the number of CPUs where they are not set.
///
/// Changing the environment is sound only while nobody else can read it, so this does nothing
/// in a process that already has a second thread, or where it cannot count them (it can on
/// Linux). Then set the two variables outside.
pub fn threads_from_env() {
    if num_threads() != Some(1) {
        return;
    }
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get()).to_string();
    for name in ["RAYON_NUM_THREADS", "CANDLE_NUM_THREADS"] {
        if std::env::var_os(name).is_none() {
            // SAFETY: this is the only thread of the process, so nothing reads the environment.
            unsafe { std::env::set_var(name, &cpus) };
        }
    }
}

/// Runs `work` on a thread of the pool if `device` is the CPU, and where it stands otherwise.
///
/// Handing a part of an operation to the pool costs 8 us from a thread outside of it and next
/// to nothing from one of its own, so a step of a small model is a fifth faster inside: put
/// this around a whole step or decode. Work on other devices stays on its thread, which owns
/// their streams. What interrupts the work goes along with it.
pub fn in_pool<R: Send>(device: &Device, work: impl FnOnce() -> R + Send) -> R {
    if !device.is_cpu() {
        return work();
    }
    let watch = Watch::current();
    rayon::scope(|_| watch.scope(work))
}

/// Threads of this process, `None` where it cannot be known.
fn num_threads() -> Option<usize> {
    Some(std::fs::read_dir("/proc/self/task").ok()?.count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_on_the_cpu_runs_in_the_pool() {
        assert_eq!(rayon::current_thread_index(), None);
        assert!(in_pool(&Device::Cpu, rayon::current_thread_index).is_some());
    }

    #[test]
    fn a_process_with_threads_keeps_its_environment() {
        // The test harness runs this beside its main thread.
        assert_ne!(num_threads(), Some(1));
        let before = std::env::var_os("CANDLE_NUM_THREADS");
        threads_from_env();
        assert_eq!(std::env::var_os("CANDLE_NUM_THREADS"), before);
    }
}
