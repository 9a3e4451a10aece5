//! Opening the device that a model is to run on.

use candle_core::Device;
use gpu::Unavailable;

use crate::device_name::DeviceName;
use crate::error::Error;

impl DeviceName {
    /// Opens the device.
    ///
    /// # Errors
    /// A GPU was asked for, and the program, the machine or the GPU cannot do it.
    pub fn open(self) -> Result<Device, Error> {
        match self {
            DeviceName::Cpu => Ok(Device::Cpu),
            DeviceName::Auto => Ok(gpu::open(0).unwrap_or_else(on_the_cpu)),
            DeviceName::Cuda(ordinal) => gpu::open(ordinal).map_err(|reason| Error::Device { device: self, reason }),
        }
    }
}

/// What `auto` falls back on. A GPU that is there and cannot be used is worth a line.
fn on_the_cpu(reason: Unavailable) -> Device {
    match reason {
        Unavailable::NotBuilt | Unavailable::NoDriver(_) | Unavailable::NoSuchGpu(_) => {}
        reason => tracing::warn!("on the CPU: {reason}"),
    }
    Device::Cpu
}
