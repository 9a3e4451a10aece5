//! Products of tiles by an AVX-512 instruction that sums, in each lane of a vector, the products of a row's four bytes
//! and an output's.

use std::arch::x86_64::{__m512i, _mm512_load_si512, _mm512_set1_epi32, _mm512_setzero_si512, _mm512_store_si512};

use super::simd::vectorized;
use super::tiles::{Format, Multiplier, Operands, SIDE, STEP, Sums};

/// Rows of a block in registers: eight by three vectors of sums, as in f32.
const ROWS: usize = 8;
/// Vectors of a row of sums.
const PANELS: usize = 3;

/// Such an instruction, and the proof that this processor has it.
pub(super) trait Dots: Copy + Send + Sync + 'static {
    /// What it takes the bytes for.
    type Format: Format;

    /// Runs `work` compiled for the instruction, if it is inlined.
    fn call<R>(self, work: impl FnOnce() -> R) -> R;
    /// `sums` of 16 outputs and the products of their `weights` and of a row's bytes, which every lane of `x` holds.
    fn dot(self, sums: __m512i, weights: __m512i, x: __m512i) -> __m512i;
}

type Sum<D> = <<D as Dots>::Format as Format>::Sum;

impl<D: Dots> Multiplier<D::Format> for D {
    const STRIPS: usize = 1;
    const PANELS: usize = PANELS;
    const STEPS: usize = 48;
    const TASK_ROWS: usize = 336;
    type Session = ();

    fn begin(self) {}

    #[inline(always)]
    unsafe fn multiply(self, operands: Operands, c: *mut Sums<Sum<D>>, first: bool) {
        const { assert!(size_of::<Sums<Sum<D>>>() == size_of::<__m512i>(), "a sum has a lane") };
        for row in (0..operands.rows).step_by(ROWS) {
            let rows = ROWS.min(operands.rows - row);
            // SAFETY: the rows lie in one strip. The rest is the caller's promise.
            unsafe { block(self, operands, row, rows, c.add(row * PANELS).cast(), first) };
        }
    }
}

/// Some rows of a strip, at most [`ROWS`].
///
/// # Safety
/// As for [`Multiplier::multiply`].
#[inline(always)]
unsafe fn block<D: Dots>(dots: D, operands: Operands, row: usize, rows: usize, c: *mut __m512i, first: bool) {
    macro_rules! call {
        ($($rows:literal)*) => {
            match (rows, operands.panels) {
                // SAFETY: the caller's promises.
                $(($rows, 1) => vectorized!(dots, unsafe { registers::<D, $rows, 1>(dots, operands, row, c, first) }),
                // SAFETY: the caller's promises.
                ($rows, 2) => vectorized!(dots, unsafe { registers::<D, $rows, 2>(dots, operands, row, c, first) }),
                // SAFETY: the caller's promises.
                ($rows, 3) => vectorized!(dots, unsafe { registers::<D, $rows, 3>(dots, operands, row, c, first) }),)*
                _ => unreachable!("a block has at most 8 rows and 3 panels. This is a bug."),
            }
        };
    }
    call!(1 2 3 4 5 6 7 8);
}

/// `N` rows by `P` vectors of sums, all in registers.
///
/// # Safety
/// As for [`block`].
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "as written, the compiler keeps all sums in registers")]
unsafe fn registers<D: Dots, const N: usize, const P: usize>(
    dots: D,
    operands: Operands,
    row: usize,
    c: *mut __m512i,
    first: bool,
) {
    // SAFETY: the caller promises all tiles and sums, which are aligned as a vector is; a `Dots` exists only where
    // AVX-512 does.
    unsafe {
        let mut sums = [[_mm512_setzero_si512(); P]; N];
        let mut a = operands.a.cast::<i32>().wrapping_add(row * STEP / 4);
        let mut b = [operands.b.cast::<__m512i>(); P];
        for (panel, start) in b.iter_mut().enumerate() {
            *start = start.wrapping_add(panel * operands.b_stride * SIDE);
        }
        if !first {
            for row in 0..N {
                for panel in 0..P {
                    sums[row][panel] = _mm512_load_si512(c.add(row * PANELS + panel));
                }
            }
        }
        for _ in 0..operands.steps {
            for group in 0..SIDE {
                let mut weights = [_mm512_setzero_si512(); P];
                for panel in 0..P {
                    weights[panel] = _mm512_load_si512(b[panel].add(group));
                }
                for row in 0..N {
                    let x = _mm512_set1_epi32(*a.add(row * STEP / 4 + group));
                    for panel in 0..P {
                        sums[row][panel] = dots.dot(sums[row][panel], weights[panel], x);
                    }
                }
            }
            a = a.wrapping_add(SIDE * STEP / 4);
            for start in &mut b {
                *start = start.wrapping_add(SIDE);
            }
        }
        for row in 0..N {
            for panel in 0..P {
                _mm512_store_si512(c.add(row * PANELS + panel), sums[row][panel]);
            }
        }
    }
}
