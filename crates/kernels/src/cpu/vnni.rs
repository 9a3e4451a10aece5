//! AVX512-VNNI: four products of bytes and their sum in each lane of a vector.

use std::arch::x86_64::{__m512i, _mm512_dpbusd_epi32};

use super::avx512::Avx512;
use super::dots::Dots;
use super::int8::Int8;

/// Proof that this processor has AVX-512 with VNNI.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vnni(());

impl Vnni {
    pub(super) fn detect(_: Avx512) -> Option<Vnni> {
        is_x86_feature_detected!("avx512vnni").then_some(Vnni(()))
    }
}

// SAFETY of both blocks below: a `Vnni` exists only if the processor has the instructions.
impl Dots for Vnni {
    type Format = Int8;

    #[inline(always)]
    fn call<R>(self, work: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx512f,avx512vnni")]
        fn inner<R>(work: impl FnOnce() -> R) -> R {
            work()
        }
        // SAFETY: see above.
        unsafe { inner(work) }
    }

    #[inline(always)]
    fn dot(self, sums: __m512i, weights: __m512i, x: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_dpbusd_epi32(sums, weights, x) }
    }
}
