//! Products of tiles by AVX-512 dot-product instructions. In each lane of a vector they sum the products of four bytes
//! of a row and of an output.

use std::arch::x86_64::{__m512i, _mm512_load_si512, _mm512_set1_epi32, _mm512_setzero_si512, _mm512_store_si512};

use super::simd::vectorized;
use super::tiles::{Format, Multiplier, Operands, SIDE, STEP, Sums};

/// Rows of a block in registers: eight rows of three vectors of sums, as in f32.
const ROWS: usize = 8;
/// Vectors of sums per row.
const PANELS: usize = 3;

/// A dot-product instruction, and proof that this processor has it.
pub(super) trait Dots: Copy + Send + Sync + 'static {
    /// The format of the bytes.
    type Format: Format;

    /// Runs `work` compiled for the instruction, if it is inlined.
    fn call<R>(self, work: impl FnOnce() -> R) -> R;
    /// `sums` of 16 outputs plus the products of their `weights` and a row's bytes. Every lane of `x` holds the same
    /// bytes of the row.
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
            // SAFETY: the rows lie in one strip. The caller promises the rest.
            unsafe { block(self, operands, row, rows, c.add(row * PANELS).cast(), first) };
        }
    }
}

/// Multiplies some rows of a strip, at most [`ROWS`].
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

/// Multiplies `N` rows by `P` vectors, with all sums in registers.
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
    // SAFETY: the caller promises all tiles and sums, which have the alignment of a vector. A `Dots` exists only on
    // processors with AVX-512.
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
