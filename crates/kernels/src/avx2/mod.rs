//! Kernels for processors with AVX2, FMA and F16C.
//!
//! Winograd's products alone take AVX-512 where there is some: they are most of a VAE.
//!
//! A function that needs the features takes an [`Avx2`] as proof that they are there. Work is
//! split over rayon's threads by output rows, columns or heads, and every output element is
//! summed in an order that depends on the length of its own sum only: a row comes out the
//! same, bit for bit, whatever lies beside it and however many threads there are.

#![allow(unsafe_code, reason = "vector intrinsics, and tiles written through pointers")]

pub(crate) mod attention;
pub(crate) mod conv;
mod gemm;
pub(crate) mod group_norm;
mod head;
pub(crate) mod linear;
mod narrow_conv;
pub(crate) mod norm;
mod parallel;
mod simd;
pub(crate) mod step;
mod winograd;

/// The proof that this processor has AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// Asks the processor; the answer is kept by the standard library.
    pub(crate) fn detect() -> Option<Avx2> {
        let there =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        there.then_some(Avx2(()))
    }
}
