//! `--dtype`.

use omni::Dtype;

/// The dtype of a model's weights.
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

impl From<DtypeName> for Dtype {
    fn from(name: DtypeName) -> Self {
        match name {
            DtypeName::F32 => Dtype::F32,
            DtypeName::Bf16 => Dtype::Bf16,
            DtypeName::F16 => Dtype::F16,
        }
    }
}
