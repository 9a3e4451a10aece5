//! When freed memory goes back to the system.

#![allow(unsafe_code, reason = "mallopt is unsafe; it is called before there are threads")]

/// Has glibc's allocator give large blocks back to the system when they are freed, for the life of the process: call it
/// first thing in `main`.
///
/// By itself it raises the size from which it does so to that of the largest block that was freed, up to 32 MiB, and
/// hundreds of megabytes that others sent once then stay in the process. Fixed at 2 MiB that is over, and what is smaller
/// is kept up to 8 MiB, rather than twice the largest: activations of a step are not mapped anew at each operation.
/// Other allocators are left as they are.
pub fn return_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (parameter, bytes) in [(libc::M_MMAP_THRESHOLD, 2 << 20), (libc::M_TRIM_THRESHOLD, 8 << 20)] {
        // SAFETY: it changes numbers of the allocator's, under its lock. What it refuses stays as it is.
        unsafe { libc::mallopt(parameter, bytes) };
    }
}
