//! Reproducible numbers and comparisons for the tests.

use candle_core::{DType, Device, Shape, Tensor};

use crate::cpu::sets::sets;
use crate::with_instruction_set;

/// Roughly normal numbers (mean 0, variance 1), the same for the same seed.
pub(crate) fn randn(seed: u64, shape: impl Into<Shape>) -> Tensor {
    let shape = shape.into();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    // The sum of three uniforms of variance 1/12 has variance 1/4.
    let numbers = (0..shape.elem_count()).map(|_| 2.0 * (uniform() + uniform() + uniform()));
    Tensor::from_vec(numbers.collect(), shape, &Device::Cpu).unwrap()
}

/// The numbers of a tensor, as f32.
pub(crate) fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Asserts that two tensors have the same shape and differ by at most `tolerance` times the largest expected magnitude.
/// Prints the error.
#[track_caller]
pub(crate) fn assert_close(name: &str, given: &Tensor, expected: &Tensor, tolerance: f32) {
    assert_eq!(given.dims(), expected.dims(), "{name}");
    let (given, expected) = (numbers(given), numbers(expected));
    assert!(given.iter().all(|x| x.is_finite()), "{name}: not finite");
    let largest = expected.iter().fold(1e-6f32, |largest, x| largest.max(x.abs()));
    let error = given.iter().zip(&expected).fold(0f32, |error, (a, b)| error.max((a - b).abs())) / largest;
    println!("{name}: error {error:.1e}, tolerance {tolerance:.0e}");
    assert!(error <= tolerance, "{name}: error {error:e}, tolerance {tolerance:e}");
}

/// Calls `check(set, name)` for every vector instruction set of this processor, and prints the names of those it lacks.
macro_rules! on_each_simd {
    ($check:ident) => {{
        $check(crate::cpu::portable::Portable, "portable");
        #[cfg(target_arch = "x86_64")]
        {
            match crate::cpu::avx2::Avx2::detect() {
                Some(set) => $check(set, "avx2"),
                None => println!("kernels not run here: no avx2"),
            }
            match crate::cpu::avx512::Avx512::detect() {
                Some(set) => $check(set, "avx512"),
                None => println!("kernels not run here: no avx512"),
            }
        }
    }};
}
pub(crate) use on_each_simd;

/// Runs `check` with the kernels of every instruction set of this processor, and prints the names of those it lacks.
pub(crate) fn on_each_set(check: impl Fn(&str)) {
    for set in sets() {
        if with_instruction_set(set.name, || check(set.name)).is_err() {
            println!("kernels not run here: no {}", set.name);
        }
    }
}
