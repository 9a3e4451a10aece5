//! An NVIDIA GPU, opened for one worker.
//!
//! A program with CUDA (the feature `cuda`) starts on any machine: `libraries.rs` loads CUDA's libraries at their first
//! call. [`open`] reports what a machine lacks, or sets up a device for one worker thread: a stream of its own, no
//! event tracking, and a memory pool that keeps freed memory.
//!
//! Without the feature [`open`] always returns [`Unavailable::NotBuilt`].

#[cfg(lazy_libraries)]
mod busy;
#[cfg(feature = "cuda")]
mod device;
mod facts;
#[cfg(lazy_libraries)]
mod libraries;
mod unavailable;

use std::time::Duration;

use candle_core::Device;

pub use facts::{Busy, Gpu, Memory, PoolMemory};
pub use unavailable::{OLDEST_CAPABILITY, Unavailable};

/// Opens GPU number `ordinal` for the calling thread, with a stream of its own.
///
/// # Errors
/// The reason why the GPU cannot be used.
pub fn open(ordinal: usize) -> Result<Device, Unavailable> {
    #[cfg(feature = "cuda")]
    return device::open(ordinal);
    #[cfg(not(feature = "cuda"))]
    {
        let _ = ordinal;
        Err(Unavailable::NotBuilt)
    }
}

/// Properties of a device; `None` for a CPU, or if the driver does not report them.
pub fn describe(device: &Device) -> Option<Gpu> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        return device::describe(device);
    }
    let _ = device;
    None
}

/// Whether a GPU answers every call with an error. None of its handles may then be dropped before it is opened anew:
/// the libraries fail at that, which ends the thread. So the handles are leaked, a few kilobytes.
pub fn is_lost(device: &Device) -> bool {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(cuda) = device
        && device::is_lost(cuda)
    {
        std::mem::forget(device.clone());
        return true;
    }
    let _ = device;
    false
}

/// The memory of a GPU; `None` for a CPU, and where the driver does not say.
pub fn memory(device: &Device) -> Option<Memory> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        return device::memory(device);
    }
    let _ = device;
    None
}

/// The compute capability of a GPU, major and minor; `None` for a CPU, or if the driver does not report it.
pub fn capability(device: &Device) -> Option<(i32, i32)> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        return device.cuda_stream().context().compute_capability().ok();
    }
    let _ = device;
    None
}

/// The memory of this process's tensors on a GPU; `None` for a CPU, and where the driver does not say.
pub fn pool_memory(device: &Device) -> Option<PoolMemory> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        return device::pool_memory(device);
    }
    let _ = device;
    None
}

/// Begins to look for the most anew, if the driver has a say in it.
pub fn forget_most(device: &Device) {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        device::forget_most(device);
    }
    let _ = device;
}

/// Runs `work`, all of it on `device`'s stream, and measures how long the GPU was busy. The rest of the time that
/// `work` usually takes is idle time. The GPU starts later by `ahead`, which should be the time that `work` takes
/// without the measurement, so that the GPU never waits for a call. If `work` itself waits for the GPU, to read
/// something, that lead is lost.
///
/// `None` on a CPU, and in a build whose driver calls cannot be intercepted (all but x86-64 Linux).
///
/// # Errors
/// The driver's words. The result of `work` is returned all the same.
pub fn busy<R>(device: &Device, ahead: Duration, work: impl FnOnce() -> R) -> (R, Result<Option<Busy>, Unavailable>) {
    #[cfg(lazy_libraries)]
    if let Device::Cuda(device) = device {
        let (made, seen) = busy::busy(device, ahead, work);
        return (made, seen.map_err(|err| Unavailable::Failed(device::named(err))));
    }
    let _ = (device, ahead);
    (work(), Ok(None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_is_not_watched() {
        let (made, busy) = busy(&Device::Cpu, Duration::ZERO, || 3);
        assert_eq!((made, busy), (3, Ok(None)));
        assert_eq!((memory(&Device::Cpu), pool_memory(&Device::Cpu)), (None, None));
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_build_without_cuda_opens_nothing() {
        assert_eq!(open(0).unwrap_err(), Unavailable::NotBuilt);
    }
}
