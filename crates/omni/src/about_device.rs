//! A one-line description of the device that a model runs on.

use std::fmt;

use bytesize::ByteSize;
use candle_core::Device;
use gpu::Gpu;

use crate::error::Error;
#[cfg(feature = "cuda")]
use crate::error::Unsupported;

/// A GPU and the attention kernel used on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AboutGpu {
    /// Name, compute capability and memory.
    pub gpu: Gpu,
    /// The attention kernel, e.g. `mma`.
    pub attention: &'static str,
}

impl AboutGpu {
    /// The compute capability as text, e.g. `9.0`.
    pub fn capability(&self) -> String {
        let (major, minor) = self.gpu.capability;
        format!("{major}.{minor}")
    }
}

impl fmt::Display for AboutGpu {
    /// `NVIDIA H200 (compute capability 9.0, 139.8 GiB), attention: mma`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory = ByteSize::b(self.gpu.memory);
        write!(
            f,
            "{} (compute capability {}, {memory}), attention: {}",
            self.gpu.name,
            self.capability(),
            self.attention
        )
    }
}

/// Describes the GPU behind `device`; `None` for a CPU.
///
/// # Errors
/// The environment names an unknown attention kernel.
pub fn about_gpu(device: &Device) -> Result<Option<AboutGpu>, Error> {
    let Some(gpu) = gpu::describe(device) else { return Ok(None) };
    #[cfg(feature = "cuda")]
    let attention = kernels::cuda_attention().map_err(Unsupported::Attention)?;
    #[cfg(not(feature = "cuda"))]
    let attention = "reference";
    Ok(Some(AboutGpu { gpu, attention }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_is_told_in_a_line() {
        let gpu = Gpu { name: "NVIDIA H200".into(), capability: (9, 0), memory: 139 << 30 };
        let told = AboutGpu { gpu, attention: "mma" }.to_string();
        assert_eq!(told, "NVIDIA H200 (compute capability 9.0, 139.0 GiB), attention: mma");
        assert!(about_gpu(&Device::Cpu).unwrap().is_none());
    }
}
