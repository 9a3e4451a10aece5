//! Which backend works for which device.

use candle_core::Device;

use crate::backend::{Backend, Reference};
use crate::cpu::Cpu;

/// The backend of `device`.
pub(crate) fn backend(device: &Device) -> &'static dyn Backend {
    match device {
        Device::Cpu => &Cpu,
        Device::Cuda(_) | Device::Metal(_) => &Reference,
    }
}
