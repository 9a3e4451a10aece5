//! `--device`, `--dtype` and `--quantization`: what they may say and what they mean.

use std::str::FromStr;

use candle_core::{DType, Device};
use models::Quantization;

use crate::error::Error;

/// Where a model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceName {
    /// The first GPU if this build has CUDA and there is one, else the CPU.
    #[default]
    Auto,
    /// All cores.
    Cpu,
    /// One GPU, by its number.
    Cuda(usize),
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(DeviceName::Auto),
            "cpu" => Ok(DeviceName::Cpu),
            "cuda" => Ok(DeviceName::Cuda(0)),
            _ => match text.strip_prefix("cuda:").map(str::parse) {
                Some(Ok(ordinal)) => Ok(DeviceName::Cuda(ordinal)),
                _ => Err("must be `auto`, `cpu`, `cuda` or `cuda:N`".into()),
            },
        }
    }
}

impl DeviceName {
    /// Opens the device.
    ///
    /// # Errors
    /// A GPU was asked for and this build has no CUDA, or the GPU does not answer.
    pub fn open(self) -> Result<Device, Error> {
        match self {
            DeviceName::Cpu => Ok(Device::Cpu),
            DeviceName::Auto => Ok(Device::cuda_if_available(0).unwrap_or(Device::Cpu)),
            DeviceName::Cuda(_) if !candle_core::utils::cuda_is_available() => {
                let message = "`--device cuda` needs a build with CUDA: cargo build --release --features cuda";
                Err(Error::Flag(message.into()))
            }
            DeviceName::Cuda(ordinal) => Device::new_cuda(ordinal)
                .map_err(|err| Error::Flag(format!("`--device cuda:{ordinal}` does not answer: {err}"))),
        }
    }
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
    /// The chosen dtype; by default f32 on a CPU and bf16 on a GPU.
    pub fn resolve(choice: Option<Self>, device: &Device) -> DType {
        match choice {
            Some(DtypeName::F32) => DType::F32,
            Some(DtypeName::Bf16) => DType::BF16,
            Some(DtypeName::F16) => DType::F16,
            None if device.is_cpu() => DType::F32,
            None => DType::BF16,
        }
    }
}

/// What the products of the transformer's blocks are rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum QuantizationName {
    /// 8-bit integers, on a CPU.
    Int8,
}

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
            None => Ok(None),
        }
    }

    /// As `--quantization` takes it.
    pub fn name(self) -> &'static str {
        match self {
            QuantizationName::Int8 => "int8",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names() {
        assert_eq!("cuda:3".parse(), Ok(DeviceName::Cuda(3)));
        assert_eq!("cuda".parse(), Ok(DeviceName::Cuda(0)));
        for bad in ["", "gpu", "cuda:", "cuda:x", "cuda:-1"] {
            assert!(bad.parse::<DeviceName>().is_err(), "{bad}");
        }
    }
}
