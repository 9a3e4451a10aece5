//! AVX2, FMA and F16C: sixteen vector registers of eight floats.

use std::arch::x86_64::{
    __m128i, __m256, _MM_HINT_T1, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_loadu_ps, _mm_loadu_si128, _mm_max_ps,
    _mm_max_ss, _mm_movehl_ps, _mm_prefetch, _mm_shuffle_ps, _mm256_add_epi32, _mm256_add_ps, _mm256_andnot_ps,
    _mm256_castps128_ps256, _mm256_castps256_ps128, _mm256_castsi256_ps, _mm256_cvtepu16_epi32, _mm256_cvtph_ps,
    _mm256_cvtps_epi32, _mm256_div_ps, _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_fmaddsub_ps, _mm256_fnmadd_ps,
    _mm256_loadu_ps, _mm256_max_ps, _mm256_min_ps, _mm256_mul_ps, _mm256_permute_ps, _mm256_permutevar8x32_ps,
    _mm256_round_ps, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setr_epi32, _mm256_slli_epi32, _mm256_storeu_ps,
    _mm256_sub_ps,
};

use half::{bf16, f16};

use super::simd::{Simd, Tile};

/// Proof that this processor has AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// Asks the processor. The standard library caches the answer.
    pub(crate) fn detect() -> Option<Avx2> {
        let there =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        there.then_some(Avx2(()))
    }
}

// SAFETY of every block below: an `Avx2` exists only if the processor has the instructions. The comment of a block
// covers its memory.
impl Simd for Avx2 {
    type Vector = __m256;
    type Octets = Avx2;
    const LANES: usize = 8;
    /// Twelve of the sixteen registers hold sums. A panel of `short_k` fills the first-level cache.
    const TILE: Tile = Tile { rows: 6, panels: 1, short_k: 512, tall_k: 320, tall_rows: 144 };

    #[inline(always)]
    fn call<R>(self, work: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn inner<R>(work: impl FnOnce() -> R) -> R {
            work()
        }
        // SAFETY: see above.
        unsafe { inner(work) }
    }

    #[inline(always)]
    fn octets(self) -> Avx2 {
        self
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load_from(self, x: *const f32) -> __m256 {
        // SAFETY: the caller promises eight floats.
        unsafe { _mm256_loadu_ps(x) }
    }

    #[inline(always)]
    unsafe fn store_to(self, out: *mut f32, x: __m256) {
        // SAFETY: the caller promises room for eight floats.
        unsafe { _mm256_storeu_ps(out, x) }
    }

    #[inline(always)]
    fn load_part(self, x: &[f32]) -> __m256 {
        let mut eight = [0.0; 8];
        eight[..x.len()].copy_from_slice(x);
        self.load(&eight)
    }

    #[inline(always)]
    fn store_part(self, out: &mut [f32], x: __m256) {
        let mut eight = [0.0; 8];
        self.store(&mut eight, x);
        out.copy_from_slice(&eight[..out.len()]);
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_div_ps(a, b) }
    }

    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn fnma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_fnmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_max_ps(a, b) }
    }

    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_min_ps(a, b) }
    }

    #[inline(always)]
    fn abs(self, x: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_andnot_ps(self.splat(-0.0), x) }
    }

    #[inline(always)]
    fn round(self, x: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_round_ps::<8>(x) }
    }

    #[inline(always)]
    fn scale_by_power(self, x: __m256, n: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe {
            let exponent = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)));
            _mm256_mul_ps(x, _mm256_castsi256_ps(exponent))
        }
    }

    #[inline(always)]
    fn sum(self, x: __m256) -> f32 {
        // SAFETY: see above.
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    #[inline(always)]
    fn largest(self, x: __m256) -> f32 {
        // SAFETY: see above.
        unsafe {
            let four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    #[inline(always)]
    fn rotate_pairs(self, x: __m256, cos: &[f32], sin: &[f32]) -> __m256 {
        // SAFETY: see above.
        unsafe {
            let swapped = _mm256_permute_ps::<0b10_11_00_01>(x);
            let twice = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
            // a a b b c c d d.
            let [cos, sin] = [cos, sin].map(|table| {
                let four = match table.first_chunk::<4>() {
                    Some(four) => _mm256_castps128_ps256(_mm_loadu_ps(four.as_ptr())),
                    None => self.load_part(table),
                };
                _mm256_permutevar8x32_ps(four, twice)
            });
            // x cos - y sin in the even lanes, y cos + x sin in the odd ones.
            _mm256_fmaddsub_ps(x, cos, _mm256_mul_ps(swapped, sin))
        }
    }

    #[inline(always)]
    fn widen_bf16(self, from: &[bf16], to: &mut [f32]) {
        let ((from, last), (to, last_to)) = (from.as_chunks::<8>(), to.as_chunks_mut::<8>());
        for (from, to) in from.iter().zip(to) {
            // SAFETY: both arrays are eight long. A bf16 is the upper half of an f32.
            unsafe {
                let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.as_ptr().cast::<__m128i>()));
                _mm256_storeu_ps(to.as_mut_ptr(), _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits)));
            }
        }
        last_to.iter_mut().zip(last).for_each(|(to, x)| *to = x.to_f32());
    }

    #[inline(always)]
    fn widen_f16(self, from: &[f16], to: &mut [f32]) {
        let ((from, last), (to, last_to)) = (from.as_chunks::<8>(), to.as_chunks_mut::<8>());
        for (from, to) in from.iter().zip(to) {
            // SAFETY: both arrays are eight long.
            unsafe {
                _mm256_storeu_ps(to.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast::<__m128i>())));
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
