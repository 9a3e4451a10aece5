//! The number of threads of the CPU operations.

#![allow(unsafe_code, reason = "std::env::set_var is unsafe; it is called before there are threads")]

use std::collections::HashSet;

use candle_core::Device;

use crate::Watch;

/// Fixes the number of worker threads for the life of the process. Call it first in `main`.
///
/// Unless `RAYON_NUM_THREADS` is set, candle asks the operating system for the number of CPUs at every matrix product,
/// which takes 35 us. This function sets it, and `CANDLE_NUM_THREADS` for candle's elementwise operations, unless they
/// are set already. The value is the number of cores that this process may use by its affinity and its container's
/// quota. Two hyperthreads count as one core, because they share its multipliers.
///
/// Changing the environment is sound only while no other thread can read it. So this does nothing if the process
/// already has a second thread, or if it cannot count its threads (it can on Linux). Set the two variables outside in
/// that case.
pub fn threads_from_env() {
    if num_threads() != Some(1) {
        return;
    }
    let cores = num_cores().to_string();
    for name in ["RAYON_NUM_THREADS", "CANDLE_NUM_THREADS"] {
        if std::env::var_os(name).is_none() {
            // SAFETY: this is the only thread of the process, so nothing reads the environment.
            unsafe { std::env::set_var(name, &cores) };
        }
    }
}

/// Runs `work` on a thread of the pool if `device` is the CPU, otherwise on the current thread.
///
/// Handing a part of an operation to the pool costs 8 us from a thread outside the pool and almost nothing from one
/// inside. A step of a small model is a fifth faster inside, so wrap a whole step or decode. Work on other devices
/// stays on its thread, which owns their streams. The thread's [`Watch`] goes along with the work.
pub fn in_pool<R: Send>(device: &Device, work: impl FnOnce() -> R + Send) -> R {
    if !device.is_cpu() {
        return work();
    }
    let watch = Watch::current();
    rayon::scope(|_| watch.scope(work))
}

/// Cores that this process may use, or CPUs if the system does not report which hyperthreads share a core.
fn num_cores() -> usize {
    // Respects the affinity mask and the quotas of cgroups.
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let siblings = |cpu: usize| {
        std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")).ok()
    };
    distinct_cores(&status, siblings).map_or(cpus, |cores| cores.clamp(1, cpus))
}

/// Cores of the allowed CPUs in a `/proc/PID/status`. CPUs of one core have the same list of siblings.
fn distinct_cores(status: &str, siblings: impl Fn(usize) -> Option<String>) -> Option<usize> {
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let cores: Option<HashSet<_>> = cpu_list(allowed)?.into_iter().map(siblings).collect();
    Some(cores?.len())
}

/// Parses a list of CPUs: `0-2,8` is 0, 1, 2, 8. `None` if it is anything else.
fn cpu_list(list: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        cpus.extend(first.parse::<usize>().ok()?..=last.parse::<usize>().ok()?);
    }
    Some(cpus)
}

/// The number of threads of this process; `None` if it is unknown.
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
    fn hyperthreads_of_a_core_count_once() {
        let siblings = |cpu: usize| Some(format!("{}-{}", cpu / 2 * 2, cpu / 2 * 2 + 1));
        let cores = |list: &str| distinct_cores(&format!("Name:\tlatentd\nCpus_allowed_list:\t{list}\n"), siblings);
        assert_eq!([cores("0-7"), cores("0,2,4-5"), cores("3")], [Some(4), Some(3), Some(1)]);
        assert_eq!([cores("0-"), distinct_cores("Name:\tlatentd\n", siblings)], [None; 2]);
        assert_eq!(distinct_cores("Cpus_allowed_list:\t0", |_| None), None);
        assert!((1..=std::thread::available_parallelism().unwrap().get()).contains(&num_cores()));
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
