//! The dtype of a model's weights.

use candle_core::{DType, Device};

/// A float type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// 32-bit floats.
    F32,
    /// bfloat16: half the memory.
    Bf16,
    /// 16-bit floats.
    F16,
}

impl Dtype {
    /// The chosen dtype, or the default. The default is bf16 on a GPU and f32 on a CPU. A CPU keeps bf16 if the
    /// checkpoint is `stored` in it and the processor multiplies bf16 faster. So on a CPU no weight loses precision
    /// unless asked.
    pub fn resolve(choice: Option<Self>, device: &Device, stored: DType, multiplies_bf16: bool) -> DType {
        match choice {
            Some(Dtype::F32) => DType::F32,
            Some(Dtype::Bf16) => DType::BF16,
            Some(Dtype::F16) => DType::F16,
            None if device.is_cpu() && !(stored == DType::BF16 && multiplies_bf16) => DType::F32,
            None => DType::BF16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_keeps_bf16_where_it_is_stored_and_faster() {
        let resolve = |choice, stored, faster| Dtype::resolve(choice, &Device::Cpu, stored, faster);
        assert_eq!(resolve(None, DType::BF16, true), DType::BF16);
        for (stored, faster) in [(DType::BF16, false), (DType::F32, true), (DType::F16, true)] {
            assert_eq!(resolve(None, stored, faster), DType::F32, "{stored:?} {faster}");
        }
        assert_eq!(resolve(Some(Dtype::F32), DType::BF16, true), DType::F32);
        assert_eq!(resolve(Some(Dtype::Bf16), DType::F32, false), DType::BF16);
    }
}
