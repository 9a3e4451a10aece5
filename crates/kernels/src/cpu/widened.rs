//! Eight-bit products with AVX2: bytes are widened to 16 bits, and pairs of products are summed.

use std::arch::x86_64::{
    __m128i, __m256i, _mm_load_si128, _mm_set1_epi32, _mm256_add_epi32, _mm256_cvtepi8_epi16, _mm256_cvtepu8_epi16,
    _mm256_hadd_epi32, _mm256_load_si256, _mm256_madd_epi16, _mm256_permute4x64_epi64, _mm256_setzero_si256,
    _mm256_store_si256,
};

use super::avx2::Avx2;
use super::int8::Int8;
use super::tiles::{Multiplier, Operands, SIDE, STEP, Sums};

/// Vectors per panel. A vector holds four outputs with two sums each.
const QUARTERS: usize = 4;

/// Multiplies two rows at a time, so that their sums fill half of the registers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Widened(());

impl Widened {
    pub(super) fn new(_: Avx2) -> Widened {
        Widened(())
    }
}

impl Multiplier<Int8> for Widened {
    const STRIPS: usize = 1;
    const PANELS: usize = 1;
    const STEPS: usize = 48;
    const TASK_ROWS: usize = 144;
    type Session = ();

    fn begin(self) {}

    #[inline(always)]
    unsafe fn multiply(self, operands: Operands, c: *mut Sums<i32>, first: bool) {
        // SAFETY: a `Widened` exists only if the processor has AVX2. The rows lie in one strip. The caller promises the
        // rest.
        unsafe {
            for row in (0..operands.rows / 2 * 2).step_by(2) {
                registers::<2>(operands, row, c.add(row), first);
            }
            if operands.rows % 2 == 1 {
                registers::<1>(operands, operands.rows - 1, c.add(operands.rows - 1), first);
            }
        }
    }
}

/// Multiplies `N` rows by a panel, with all sums in registers.
///
/// # Safety
/// As for [`Multiplier::multiply`], and the processor has AVX2.
#[target_feature(enable = "avx2")]
#[expect(clippy::needless_range_loop, reason = "as written, the compiler keeps all sums in registers")]
unsafe fn registers<const N: usize>(operands: Operands, row: usize, c: *mut Sums<i32>, first: bool) {
    let mut sums = [[_mm256_setzero_si256(); QUARTERS]; N];
    let mut a = operands.a.cast::<i32>().wrapping_add(row * STEP / 4);
    let mut b = operands.b.cast::<__m128i>();
    // SAFETY: the caller promises all tiles and sums, which have the alignment of vectors.
    unsafe {
        for _ in 0..operands.steps {
            for group in 0..SIDE {
                let mut rows = [_mm256_setzero_si256(); N];
                for row in 0..N {
                    rows[row] = _mm256_cvtepi8_epi16(_mm_set1_epi32(*a.add(row * STEP / 4 + group)));
                }
                for quarter in 0..QUARTERS {
                    let weights = _mm256_cvtepu8_epi16(_mm_load_si128(b.add(QUARTERS * group + quarter)));
                    for row in 0..N {
                        let products = _mm256_madd_epi16(weights, rows[row]);
                        sums[row][quarter] = _mm256_add_epi32(sums[row][quarter], products);
                    }
                }
            }
            a = a.wrapping_add(SIDE * STEP / 4);
            b = b.wrapping_add(QUARTERS * SIDE);
        }
        for row in 0..N {
            for half in 0..2 {
                let [low, high] = [sums[row][2 * half], sums[row][2 * half + 1]];
                // The two sums of each output are adjacent. Adding them leaves pairs of outputs out of order.
                let mut whole = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_hadd_epi32(low, high));
                let place = c.add(row).cast::<__m256i>().add(half);
                if !first {
                    whole = _mm256_add_epi32(whole, _mm256_load_si256(place));
                }
                _mm256_store_si256(place, whole);
            }
        }
    }
}
