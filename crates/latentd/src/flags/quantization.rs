//! `--quantization`.

use models::Quantization;

/// What the products of the transformer's blocks are rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum QuantizationName {
    /// 8-bit integers, on a CPU.
    Int8,
    /// 8-bit floats (e4m3), on a GPU of Ada's kind or a newer one. A CPU computes the same and is slow at it.
    Fp8,
}

impl QuantizationName {
    /// As `--quantization` takes it.
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
