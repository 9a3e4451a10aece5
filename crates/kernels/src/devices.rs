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
