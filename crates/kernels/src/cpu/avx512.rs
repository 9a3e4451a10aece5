//! AVX-512 (F, BW, DQ, VL): thirty-two vector registers of sixteen floats. Skylake servers and later, Zen 4 and later.

use std::arch::x86_64::{
    __m256i, __m512, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEAREST_INT, _MM_HINT_T1, _mm_prefetch, _mm256_loadu_si256,
    _mm512_abs_ps, _mm512_add_ps, _mm512_castsi512_ps, _mm512_cvtepu16_epi32, _mm512_cvtph_ps, _mm512_div_ps,
    _mm512_fmadd_ps, _mm512_fmaddsub_ps, _mm512_fnmadd_ps, _mm512_loadu_ps, _mm512_mask_storeu_ps,
    _mm512_maskz_loadu_ps, _mm512_max_ps, _mm512_min_ps, _mm512_mul_ps, _mm512_permute_ps, _mm512_permutexvar_ps,
    _mm512_reduce_add_ps, _mm512_reduce_max_ps, _mm512_roundscale_ps, _mm512_scalef_ps, _mm512_set1_ps,
    _mm512_setr_epi32, _mm512_slli_epi32, _mm512_storeu_ps, _mm512_sub_ps,
};

use half::{bf16, f16};

use super::avx2::Avx2;
use super::simd::{Simd, Tile};

/// Proof that this processor has AVX-512 and AVX2.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512(Avx2);

impl Avx512 {
    /// Asks the processor. The standard library caches the answer.
    pub(crate) fn detect() -> Option<Avx512> {
        let there = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        Avx2::detect().filter(|_| there).map(Avx512)
    }
}

/// The lanes that `len` numbers fill.
#[inline(always)]
fn mask(len: usize) -> u16 {
    ((1u32 << len.min(16)) - 1) as u16
}

// SAFETY of every block below: an `Avx512` exists only if the processor has the instructions. The comment of a block
// covers its memory.
impl Simd for Avx512 {
    type Vector = __m512;
    type Octets = Avx2;
    const LANES: usize = 16;
    /// Twenty-four of the thirty-two registers hold sums. Three panels of `tall_k` stay in the second-level cache next
    /// to the packed rows.
    const TILE: Tile = Tile { rows: 8, panels: 3, short_k: 256, tall_k: 512, tall_rows: 336 };

    #[inline(always)]
    fn call<R>(self, work: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
        fn inner<R>(work: impl FnOnce() -> R) -> R {
            work()
        }
        // SAFETY: see above.
        unsafe { inner(work) }
    }

    #[inline(always)]
    fn octets(self) -> Avx2 {
        self.0
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load_from(self, x: *const f32) -> __m512 {
        // SAFETY: the caller promises sixteen floats.
        unsafe { _mm512_loadu_ps(x) }
    }

    #[inline(always)]
    unsafe fn store_to(self, out: *mut f32, x: __m512) {
        // SAFETY: the caller promises room for sixteen floats.
        unsafe { _mm512_storeu_ps(out, x) }
    }

    #[inline(always)]
    fn load_part(self, x: &[f32]) -> __m512 {
        // SAFETY: lanes that the mask leaves out are not read.
        unsafe { _mm512_maskz_loadu_ps(mask(x.len()), x.as_ptr()) }
    }

    #[inline(always)]
    fn store_part(self, out: &mut [f32], x: __m512) {
        // SAFETY: lanes that the mask leaves out are not written.
        unsafe { _mm512_mask_storeu_ps(out.as_mut_ptr(), mask(out.len()), x) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn fnma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_fnmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_min_ps(a, b) }
    }

    #[inline(always)]
    fn abs(self, x: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_abs_ps(x) }
    }

    #[inline(always)]
    fn round(self, x: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x) }
    }

    #[inline(always)]
    fn scale_by_power(self, x: __m512, n: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_scalef_ps(x, n) }
    }

    #[inline(always)]
    fn sum(self, x: __m512) -> f32 {
        // SAFETY: see above.
        unsafe { _mm512_reduce_add_ps(x) }
    }

    #[inline(always)]
    fn largest(self, x: __m512) -> f32 {
        // SAFETY: see above.
        unsafe { _mm512_reduce_max_ps(x) }
    }

    #[inline(always)]
    fn rotate_pairs(self, x: __m512, cos: &[f32], sin: &[f32]) -> __m512 {
        // SAFETY: see above.
        unsafe {
            let swapped = _mm512_permute_ps::<0b10_11_00_01>(x);
            let twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
            let [cos, sin] =
                [cos, sin].map(|table| _mm512_permutexvar_ps(twice, self.load_part(&table[..table.len().min(8)])));
            // x cos - y sin in the even lanes, y cos + x sin in the odd ones.
            _mm512_fmaddsub_ps(x, cos, _mm512_mul_ps(swapped, sin))
        }
    }

    #[inline(always)]
    fn widen_bf16(self, from: &[bf16], to: &mut [f32]) {
        let ((from, last), (to, last_to)) = (from.as_chunks::<16>(), to.as_chunks_mut::<16>());
        for (from, to) in from.iter().zip(to) {
            // SAFETY: both arrays are sixteen long. A bf16 is the upper half of an f32.
            unsafe {
                let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.as_ptr().cast::<__m256i>()));
                _mm512_storeu_ps(to.as_mut_ptr(), _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits)));
            }
        }
        last_to.iter_mut().zip(last).for_each(|(to, x)| *to = x.to_f32());
    }

    #[inline(always)]
    fn widen_f16(self, from: &[f16], to: &mut [f32]) {
        let ((from, last), (to, last_to)) = (from.as_chunks::<16>(), to.as_chunks_mut::<16>());
        for (from, to) in from.iter().zip(to) {
            // SAFETY: both arrays are sixteen long.
            unsafe {
                let halves = _mm256_loadu_si256(from.as_ptr().cast::<__m256i>());
                _mm512_storeu_ps(to.as_mut_ptr(), _mm512_cvtph_ps(halves));
            }
        }
        last_to.iter_mut().zip(last).for_each(|(to, x)| *to = x.to_f32());
    }

    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        // SAFETY: a prefetch reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
    }
}
