//! AVX512-VNNI: four products of bytes and their sum in each lane of a vector.

use std::arch::x86_64::{
    __m512i, _mm512_dpbusd_epi32, _mm512_load_si512, _mm512_set1_epi32, _mm512_setzero_si512, _mm512_store_si512,
};

use super::avx512::Avx512;
use super::int8::Int8;
use super::tiles::{Multiplier, Operands, SIDE, STEP, Sums};

/// Rows of a block in registers: eight by three vectors of sums, as in f32.
const ROWS: usize = 8;
/// Vectors of a row of sums.
const PANELS: usize = 3;

/// The proof that this processor has AVX-512 with VNNI.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vnni(());

impl Vnni {
    pub(super) fn detect(_: Avx512) -> Option<Vnni> {
        is_x86_feature_detected!("avx512vnni").then_some(Vnni(()))
    }
}

impl Multiplier<Int8> for Vnni {
    const STRIPS: usize = 1;
    const PANELS: usize = PANELS;
    const STEPS: usize = 48;
    const TASK_ROWS: usize = 336;
    type Session = ();

    fn begin(self) {}

    #[inline(always)]
    unsafe fn multiply(self, operands: Operands, c: *mut Sums<i32>, first: bool) {
        for row in (0..operands.rows).step_by(ROWS) {
            let rows = ROWS.min(operands.rows - row);
            // SAFETY: a `Vnni` exists only where the instructions do; the rows lie in one strip. The rest is the
            // caller's promise.
            unsafe { block(operands, row, rows, c.add(row * PANELS), first) };
        }
    }
}

/// Some rows of a strip, at most [`ROWS`].
///
/// # Safety
/// As for [`Multiplier::multiply`], and the processor has the instructions.
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn block(operands: Operands, row: usize, rows: usize, c: *mut Sums<i32>, first: bool) {
    macro_rules! call {
        ($($rows:literal)*) => {
            match (rows, operands.panels) {
                // SAFETY: the caller's promises.
                $(($rows, 1) => unsafe { registers::<$rows, 1>(operands, row, c, first) },
                // SAFETY: the caller's promises.
                ($rows, 2) => unsafe { registers::<$rows, 2>(operands, row, c, first) },
                // SAFETY: the caller's promises.
                ($rows, 3) => unsafe { registers::<$rows, 3>(operands, row, c, first) },)*
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
#[target_feature(enable = "avx512f,avx512vnni")]
#[expect(clippy::needless_range_loop, reason = "as written, the compiler keeps all sums in registers")]
unsafe fn registers<const N: usize, const P: usize>(operands: Operands, row: usize, c: *mut Sums<i32>, first: bool) {
    let mut sums = [[_mm512_setzero_si512(); P]; N];
    let mut a = operands.a.cast::<i32>().wrapping_add(row * STEP / 4);
    let mut b = [operands.b.cast::<__m512i>(); P];
    for (panel, start) in b.iter_mut().enumerate() {
        *start = start.wrapping_add(panel * operands.b_stride * SIDE);
    }
    // SAFETY: the caller promises all tiles and sums; both types are aligned as a vector is.
    unsafe {
        if !first {
            for row in 0..N {
                for panel in 0..P {
                    sums[row][panel] = _mm512_load_si512(c.add(row * PANELS + panel).cast());
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
                        sums[row][panel] = _mm512_dpbusd_epi32(sums[row][panel], weights[panel], x);
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
                _mm512_store_si512(c.add(row * PANELS + panel).cast(), sums[row][panel]);
            }
        }
    }
}
