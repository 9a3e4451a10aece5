//! Memory available to this process.

use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System, get_current_pid};

/// Bytes that this process can still allocate: the smaller of the system's and its control group's available memory.
/// `None` if the system does not report it.
pub(super) fn available() -> Option<u64> {
    let mut system = System::new();
    system.refresh_memory();
    let in_system = system.available_memory();
    let pid = get_current_pid().ok()?;
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, ProcessRefreshKind::nothing());
    // The group's usage includes the page cache of every file that was read, such as the weights. That memory is
    // reclaimable, so only resident memory is subtracted.
    let in_group = system.process(pid).and_then(|process| process.cgroup_limits());
    let in_group = in_group.map(|limits| limits.total_memory.saturating_sub(limits.rss));
    Some(in_group.map_or(in_system, |bytes| bytes.min(in_system))).filter(|bytes| *bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_some_memory_and_less_than_the_machine_has() {
        let mut system = System::new();
        system.refresh_memory();
        let available = available().unwrap();
        assert!(available > 1 << 20 && available <= system.total_memory(), "{available}");
    }
}
