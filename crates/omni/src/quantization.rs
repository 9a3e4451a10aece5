//! Which quantized GEMMs a device supports.

use candle_core::Device;
use models::Quantization;

use crate::error::Unsupported;

/// The lowest compute capability with fp8 GEMMs (Ada).
const OLDEST_WITH_FP8: (i32, i32) = (8, 9);

/// Checks that `device` supports a quantization.
///
/// # Errors
/// The device does not support it.
pub fn check_quantization(quantization: Option<Quantization>, device: &Device) -> Result<(), Unsupported> {
    check(quantization, device.is_cpu(), gpu::capability(device))
}

fn check(quantization: Option<Quantization>, is_cpu: bool, capability: Option<(i32, i32)>) -> Result<(), Unsupported> {
    match (quantization, capability) {
        (Some(Quantization::Int8), _) if !is_cpu => Err(Unsupported::Int8OnGpu),
        (Some(Quantization::Fp8), Some(given)) if given < OLDEST_WITH_FP8 => {
            Err(Unsupported::Fp8 { needed: OLDEST_WITH_FP8, given })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_has_both_and_a_gpu_of_ada_s_kind_fp8() {
        let (int8, fp8) = (Some(Quantization::Int8), Some(Quantization::Fp8));
        for quantization in [int8, fp8, None] {
            assert_eq!(check(quantization, true, None), Ok(()));
        }
        assert_eq!(check(int8, false, Some((9, 0))), Err(Unsupported::Int8OnGpu));
        assert_eq!(check(fp8, false, Some((8, 9))), Ok(()));
        let refused = check(fp8, false, Some((8, 0)));
        assert_eq!(refused, Err(Unsupported::Fp8 { needed: (8, 9), given: (8, 0) }));
    }
}
