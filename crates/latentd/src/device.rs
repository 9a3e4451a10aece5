//! `--device`, `--dtype` and `--quantization`: what they mean.

use candle_core::{DType, Device};
use gpu::Unavailable;
use models::Quantization;

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

/// What a model's weights are kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DtypeName {
    /// 32-bit floats.
    #[value(alias = "float32")]
    F32,
    /// bfloat16: half the memory.
    #[value(alias = "bfloat16")]
    Bf16,
    /// 16-bit floats.
    #[value(alias = "float16")]
    F16,
}

impl DtypeName {
    /// The chosen dtype. By default bf16 on a GPU, and on a CPU f32, but for a checkpoint that is `stored` in bf16 where
    /// the processor multiplies that faster: nothing is rounded unasked that its makers have not rounded.
    pub fn resolve(choice: Option<Self>, device: &Device, stored: DType, multiplies_bf16: bool) -> DType {
        match choice {
            Some(DtypeName::F32) => DType::F32,
            Some(DtypeName::Bf16) => DType::BF16,
            Some(DtypeName::F16) => DType::F16,
            None if device.is_cpu() && !(stored == DType::BF16 && multiplies_bf16) => DType::F32,
            None => DType::BF16,
        }
    }
}

/// What the products of the transformer's blocks are rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum QuantizationName {
    /// 8-bit integers, on a CPU.
    Int8,
    /// 8-bit floats (e4m3), on a GPU of Ada's kind or a newer one. A CPU computes the same and is slow at it.
    Fp8,
}

/// The oldest compute capability of a GPU that has products of 8-bit floats: Ada's.
const OLDEST_WITH_FP8: (i32, i32) = (8, 9);

impl QuantizationName {
    /// What a model on `device` is loaded with.
    ///
    /// # Errors
    /// The device has no such products.
    pub fn resolve(choice: Option<Self>, device: &Device) -> Result<Option<Quantization>, Error> {
        match choice {
            Some(QuantizationName::Int8) if !device.is_cpu() => {
                Err(Error::Flag("`--quantization int8` is for a CPU: take it away, or set `--device cpu`".into()))
            }
            Some(QuantizationName::Int8) => Ok(Some(Quantization::Int8)),
            Some(QuantizationName::Fp8) => match gpu::capability(device) {
                Some(given) if given < OLDEST_WITH_FP8 => Err(Error::Flag(fp8_refusal(given))),
                _ => Ok(Some(Quantization::Fp8)),
            },
            None => Ok(None),
        }
    }

    /// As `--quantization` takes it.
    pub fn name(self) -> &'static str {
        match self {
            QuantizationName::Int8 => "int8",
            QuantizationName::Fp8 => "fp8",
        }
    }
}

fn fp8_refusal((major, minor): (i32, i32)) -> String {
    let (needed_major, needed_minor) = OLDEST_WITH_FP8;
    format!(
        "`--quantization fp8` needs a GPU of compute capability {needed_major}.{needed_minor} (Ada) or newer, and this one \
         has {major}.{minor}: take it away"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_keeps_bf16_where_it_is_stored_and_faster() {
        let resolve = |choice, stored, faster| DtypeName::resolve(choice, &Device::Cpu, stored, faster);
        assert_eq!(resolve(None, DType::BF16, true), DType::BF16);
        for (stored, faster) in [(DType::BF16, false), (DType::F32, true), (DType::F16, true)] {
            assert_eq!(resolve(None, stored, faster), DType::F32, "{stored:?} {faster}");
        }
        assert_eq!(resolve(Some(DtypeName::F32), DType::BF16, true), DType::F32);
        assert_eq!(resolve(Some(DtypeName::Bf16), DType::F32, false), DType::BF16);
    }

    #[test]
    fn quantization_on_a_cpu() {
        let on_cpu = |name| QuantizationName::resolve(Some(name), &Device::Cpu).unwrap();
        assert_eq!(on_cpu(QuantizationName::Int8), Some(Quantization::Int8));
        assert_eq!(on_cpu(QuantizationName::Fp8), Some(Quantization::Fp8));
        assert!(fp8_refusal((8, 0)).contains("compute capability 8.9 (Ada) or newer, and this one has 8.0"));
    }
}
