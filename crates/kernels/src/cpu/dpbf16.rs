//! AVX512-BF16: two products of bf16 and their sum in each lane of a vector.
//!
//! In each lane the odd elements' product is added to the sum, then the even ones', each rounded once; numbers too small
//! to be normal are zero, before and after.

use std::arch::x86_64::{__cpuid, __m512i, _mm512_castps_si512, _mm512_castsi512_ps, _mm512_dpbf16_ps};

use super::avx512::Avx512;
use super::bf16::Bf16;
use super::dots::Dots;

/// The proof that this processor has AVX-512 with bf16, and that it gains by it.
#[derive(Clone, Copy, Debug)]
pub(super) struct DpBf16(());

impl DpBf16 {
    /// Where it is faster than f32. Zen 4 begins one of them with each cycle, as it does a vector of fused multiply-adds,
    /// and each is twice as much work (measured: 2.0 times the f32 products from registers and from caches alike).
    /// Sapphire Rapids takes four times as long for one: half of f32. So the vendor decides, by what was measured; a
    /// timed probe would have the numbers of a process depend on what else ran while it started.
    pub(super) fn detect(_: Avx512) -> Option<DpBf16> {
        (is_x86_feature_detected!("avx512bf16") && vendor() == *b"AuthenticAMD").then_some(DpBf16(()))
    }
}

/// As the processor names its maker.
fn vendor() -> [u8; 12] {
    let leaf = __cpuid(0);
    let mut name = [0; 12];
    for (to, register) in name.as_chunks_mut::<4>().0.iter_mut().zip([leaf.ebx, leaf.edx, leaf.ecx]) {
        *to = register.to_le_bytes();
    }
    name
}

// SAFETY of both blocks below: a `DpBf16` exists only where the instructions do.
impl Dots for DpBf16 {
    type Format = Bf16;

    #[inline(always)]
    fn call<R>(self, work: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx512f,avx512bf16")]
        fn inner<R>(work: impl FnOnce() -> R) -> R {
            work()
        }
        // SAFETY: see above.
        unsafe { inner(work) }
    }

    #[inline(always)]
    fn dot(self, sums: __m512i, weights: __m512i, x: __m512i) -> __m512i {
        // SAFETY: see above; every 512 bits are 32 numbers of bf16.
        unsafe {
            let [weights, x] =
                [weights, x].map(|bits| std::mem::transmute::<__m512i, std::arch::x86_64::__m512bh>(bits));
            _mm512_castps_si512(_mm512_dpbf16_ps(_mm512_castsi512_ps(sums), weights, x))
        }
    }
}
