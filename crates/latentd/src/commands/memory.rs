//! How much memory there is for this process.

use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System, get_current_pid};

/// Bytes that this process may still take: what the system has left, or its control group if that
/// is less. `None` where the system does not tell.
pub(super) fn available() -> Option<u64> {
    let mut system = System::new();
    system.refresh_memory();
    let in_system = system.available_memory();
    let pid = get_current_pid().ok()?;
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, ProcessRefreshKind::nothing());
    // What the group counts as used includes the cached pages of every file that was read, such as
    // the weights; those make way.
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
