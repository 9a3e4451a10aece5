//! Which backend works for which device.

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

/// Bytes of a device's memory that nobody uses; `None` for the host's, and where the driver does not say.
pub fn free_memory(device: &Device) -> Option<u64> {
    #[cfg(feature = "cuda")]
    return gpu::memory(device).map(|memory| memory.free);
    #[cfg(not(feature = "cuda"))]
    {
        let _ = device;
        None
    }
}

/// Whether a GPU answers every call with an error from now on, since a kernel has failed. What this thread keeps of it is
/// let go then; it can be opened anew once all tensors are.
pub fn is_lost(device: &Device) -> bool {
    #[cfg(feature = "cuda")]
    if gpu::is_lost(device) {
        crate::cuda::forget(device);
        return true;
    }
    let _ = device;
    false
}
