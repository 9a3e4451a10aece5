//! When freed memory returns to the system.

#![allow(unsafe_code, reason = "mallopt is unsafe; it is called before there are threads")]

/// Makes glibc's allocator return large freed blocks to the system, for the life of the process. Call it first in
/// `main`.
///
/// By default glibc raises its threshold to the size of the largest freed block, up to 32 MiB. Hundreds of megabytes
/// that clients once sent then stay in the process. A fixed threshold of 2 MiB prevents that. Smaller blocks are kept
/// up to 8 MiB, rather than twice the largest, so that the activations of a step are not mapped anew at each operation.
/// Other allocators are left as they are.
pub fn return_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (parameter, bytes) in [(libc::M_MMAP_THRESHOLD, 2 << 20), (libc::M_TRIM_THRESHOLD, 8 << 20)] {
        // SAFETY: mallopt changes parameters of the allocator under its lock. A refused value leaves the parameter as
        // it is.
        unsafe { libc::mallopt(parameter, bytes) };
    }
}
