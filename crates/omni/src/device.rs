//! Opens the device that a model runs on.

use candle_core::Device;
use gpu::Unavailable;

use crate::device_name::DeviceName;
use crate::error::Error;

impl DeviceName {
    /// Opens the device.
    ///
    /// # Errors
    /// A GPU was requested, and it cannot be used: the build has no CUDA, there is no such GPU, or the GPU is
    /// unsuitable.
    pub fn open(self) -> Result<Device, Error> {
        match self {
            DeviceName::Cpu => Ok(Device::Cpu),
            DeviceName::Auto => Ok(gpu::open(0).unwrap_or_else(on_the_cpu)),
            DeviceName::Cuda(ordinal) => gpu::open(ordinal).map_err(|reason| Error::Device { device: self, reason }),
        }
    }
}

/// The fallback of `auto`. Logs a warning if there is a GPU that cannot be used.
fn on_the_cpu(reason: Unavailable) -> Device {
    match reason {
        Unavailable::NotBuilt | Unavailable::NoDriver(_) | Unavailable::NoSuchGpu(_) => {}
        reason => tracing::warn!("on the CPU: {reason}"),
    }
    Device::Cpu
}
