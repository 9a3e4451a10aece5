//! The devices of a server's workers, opened once to check that they work.

use candle_core::{Device, DeviceLocation};
use latentd::Error;
use omni::{DeviceName, OffloadPolicy, about_gpu};
use server::{WorkerDevice, WorkerGpu};

use super::mistakes::Mistakes;
use latentd::{Devices, ModelFlags};

/// The workers' devices.
pub(super) struct Workers {
    /// One device per worker.
    pub(super) devices: Vec<WorkerDevice>,
    /// Number of workers on the CPU.
    pub(super) on_cpu: usize,
}

impl Workers {
    /// Opens every device. A device that cannot be opened, and a GPU that is named twice, are mistakes.
    pub(super) fn open(loading: &ModelFlags<Devices>, mistakes: &mut Mistakes) -> Self {
        let names = &loading.on.device;
        let opened: Vec<_> = names.iter().map(|name| mistakes.take(name.open().map_err(Error::from))).collect();
        if let Some(twice) = named_twice(&opened) {
            mistakes.note(format!("`--device`: cuda:{twice} is named twice, and a GPU has one worker"));
        }
        let on_cpu = opened.iter().flatten().filter(|device| device.is_cpu()).count();
        if on_cpu > 0 {
            mistakes.take(OffloadPolicy::from(loading.offload).check(true).map_err(Error::from));
        }
        let devices = names.iter().zip(&opened).map(|(name, device)| {
            let about =
                device.as_ref().and_then(|device| mistakes.take(about_gpu(device).map_err(Error::from)).flatten());
            let gpu = about.map(|about| WorkerGpu {
                compute_capability: about.capability(),
                memory_bytes: about.gpu.memory,
                attention: about.attention,
                name: about.gpu.name,
            });
            WorkerDevice::new(device.as_ref().map_or_else(|| name.to_string(), told), gpu)
        });
        let devices = devices.collect();
        Workers { devices, on_cpu }
    }
}

/// The name of an opened device, which `auto` may have chosen.
fn told(device: &Device) -> String {
    match device.location() {
        DeviceLocation::Cuda { gpu_id } => DeviceName::Cuda(gpu_id).to_string(),
        _ => DeviceName::Cpu.to_string(),
    }
}

/// The first GPU that is named twice.
fn named_twice(devices: &[Option<Device>]) -> Option<usize> {
    let gpu = |device: &Device| match device.location() {
        DeviceLocation::Cuda { gpu_id } => Some(gpu_id),
        _ => None,
    };
    let gpus: Vec<_> = devices.iter().flatten().filter_map(gpu).collect();
    let mut twice = gpus.iter().enumerate().filter(|(i, gpu)| gpus[..*i].contains(gpu));
    twice.next().map(|(_, gpu)| *gpu)
}
