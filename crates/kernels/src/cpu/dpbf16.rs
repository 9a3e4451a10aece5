//! AVX512-BF16: two products of bf16 and their sum in each lane of a vector.
//!
//! Each lane first adds the product of the odd elements to the sum, then that of the even ones, with one rounding each.
//! Subnormal numbers are zero before and after.

use std::arch::x86_64::{__cpuid, __m512i, _mm512_castps_si512, _mm512_castsi512_ps, _mm512_dpbf16_ps};

use super::avx512::Avx512;
use super::bf16::Bf16;
use super::dots::Dots;

/// Proof that this processor has AVX-512 with bf16, and that bf16 is faster than f32 on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct DpBf16(());

impl DpBf16 {
    /// Returns a proof if bf16 products are faster than f32. Zen 4 starts one of them each cycle, like a vector of
    /// fused multiply-adds, and each does twice the work (measured: 2.0 times the f32 products, from registers and from
    /// caches alike). Sapphire Rapids takes four times as long for one, which makes half the speed of f32. So the
    /// vendor decides, according to the measurements. A timed probe would make the numbers of a process depend on the
    /// machine's load at startup.
    pub(super) fn detect(_: Avx512) -> Option<DpBf16> {
        (is_x86_feature_detected!("avx512bf16") && vendor() == *b"AuthenticAMD").then_some(DpBf16(()))
    }
}

/// The vendor string of the processor.
fn vendor() -> [u8; 12] {
    let leaf = __cpuid(0);
    let mut name = [0; 12];
    for (to, register) in name.as_chunks_mut::<4>().0.iter_mut().zip([leaf.ebx, leaf.edx, leaf.ecx]) {
        *to = register.to_le_bytes();
    }
    name
}

// SAFETY of both blocks below: a `DpBf16` exists only if the processor has the instructions.
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
        // SAFETY: see above; any 512 bits are 32 bf16 numbers.
        unsafe {
            let [weights, x] =
                [weights, x].map(|bits| std::mem::transmute::<__m512i, std::arch::x86_64::__m512bh>(bits));
            _mm512_castps_si512(_mm512_dpbf16_ps(_mm512_castsi512_ps(sums), weights, x))
        }
    }
}
