//! `--quantization`.

use models::Quantization;

/// The precision of the matrix products in the transformer's blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum QuantizationName {
    /// 8-bit integers, on a CPU.
    Int8,
    /// 8-bit floats (e4m3), on an Ada or newer GPU. A CPU computes the same result, slowly.
    Fp8,
}

impl QuantizationName {
    /// The name as `--quantization` takes it.
    pub fn name(self) -> &'static str {
        match self {
            QuantizationName::Int8 => "int8",
            QuantizationName::Fp8 => "fp8",
        }
    }
}

impl From<QuantizationName> for Quantization {
    fn from(name: QuantizationName) -> Self {
        match name {
            QuantizationName::Int8 => Quantization::Int8,
            QuantizationName::Fp8 => Quantization::Fp8,
        }
    }
}
