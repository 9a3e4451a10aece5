//! The choice of a backend for a device.

use candle_core::Device;

use crate::backend::{Backend, Reference};
use crate::cpu::Cpu;
#[cfg(feature = "cuda")]
use crate::{cpu::sets::is_reference_forced, cuda::Cuda};

/// The backend of `device`.
pub(crate) fn backend(device: &Device) -> &'static dyn Backend {
    match device {
        Device::Cpu => &Cpu,
        #[cfg(feature = "cuda")]
        Device::Cuda(_) if !is_reference_forced() => &Cuda,
        Device::Cuda(_) | Device::Metal(_) => &Reference,
    }
}

/// Free bytes of a device's memory; `None` for the host, or if the driver does not report them.
pub fn free_memory(device: &Device) -> Option<u64> {
    #[cfg(feature = "cuda")]
    return gpu::memory(device).map(|memory| memory.free);
    #[cfg(not(feature = "cuda"))]
    {
        let _ = device;
        None
    }
}

/// Whether a failed kernel has left a GPU answering every call with an error. If so, this drops what the current thread
/// caches of the device. The device can be opened anew once all of its tensors are dropped.
pub fn is_lost(device: &Device) -> bool {
    #[cfg(feature = "cuda")]
    if gpu::is_lost(device) {
        crate::cuda::forget(device);
        return true;
    }
    let _ = device;
    false
}
