//! The register tile that every matrix product here is made of: up to 6 rows by 16 columns.
//!
//! Right operands are *panels* of 16 columns, `[k][16]`. An element of C is one chain of
//! fused multiply-adds over k, cut anywhere, so how a product is blocked does not show in it.

use std::arch::x86_64::{
    _mm256_add_ps, _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps, _mm256_storeu_ps,
    _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
};

use super::simd::{gelu, load_at};
use crate::linear::Epilogue;

/// Columns of a panel.
pub(super) const PANEL: usize = 16;
/// Most rows of a tile: 12 of the 16 vector registers hold sums.
pub(super) const STRIP: usize = 6;

/// A left operand: element (row, i) lies at `start + row * row_stride + i * stride`.
#[derive(Clone, Copy)]
pub(super) struct Left {
    pub(super) start: *const f32,
    pub(super) row_stride: usize,
    pub(super) stride: usize,
}

/// A result: element (row, column) lies at `start + row * row_stride + column`.
#[derive(Clone, Copy)]
pub(super) struct Output {
    pub(super) start: *mut f32,
    pub(super) row_stride: usize,
}

/// The end of a sum: its bias, its epilogue, and where in the whole result the tile lies.
#[derive(Clone, Copy)]
pub(super) struct Finish<'a> {
    pub(super) bias: &'a [f32; PANEL],
    pub(super) epilogue: Epilogue<'a>,
    pub(super) row: usize,
    pub(super) column: usize,
    /// Of the whole result.
    pub(super) columns: usize,
}

/// `c = (first ? 0 : c) + a * panel` for any number of rows, on AVX-512 where `wide`: its sums are
/// the same to the last bit.
///
/// # Safety
/// The processor has AVX2 and FMA, and AVX-512 if `wide`. Else as `strip`.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn rows(wide: bool, rows: usize, k: usize, a: Left, panel: *const f32, c: Output, first: bool) {
    let mut row = 0;
    while row < rows {
        let a = Left { start: a.start.wrapping_add(row * a.row_stride), ..a };
        let c = Output { start: c.start.wrapping_add(row * c.row_stride), ..c };
        // SAFETY: the caller's promises hold for these of the rows.
        row += unsafe {
            match rows - row {
                left if !wide => {
                    strip(STRIP.min(left), k, a, panel, c, first, None);
                    STRIP.min(left)
                }
                12.. => wide_tile::<12>(k, a, panel, c, first),
                6.. => wide_tile::<6>(k, a, panel, c, first),
                3.. => wide_tile::<3>(k, a, panel, c, first),
                _ => wide_tile::<1>(k, a, panel, c, first),
            }
        };
    }
}

/// One vector of 16 columns a row; gives back the number of rows.
#[target_feature(enable = "avx512f")]
unsafe fn wide_tile<const ROWS: usize>(k: usize, a: Left, panel: *const f32, c: Output, first: bool) -> usize {
    let mut sums = [_mm512_setzero_ps(); ROWS];
    // SAFETY: the caller promises that all of a, panel and c is there (see `strip`).
    unsafe {
        if !first {
            for (row, sum) in sums.iter_mut().enumerate() {
                *sum = _mm512_loadu_ps(c.start.add(row * c.row_stride));
            }
        }
        let rows: [*const f32; ROWS] = std::array::from_fn(|row| a.start.wrapping_add(row * a.row_stride));
        for i in 0..k {
            let b = _mm512_loadu_ps(panel.add(i * PANEL));
            for row in 0..ROWS {
                sums[row] = _mm512_fmadd_ps(_mm512_set1_ps(*rows[row].add(i * a.stride)), b, sums[row]);
            }
        }
        for (row, sum) in sums.into_iter().enumerate() {
            _mm512_storeu_ps(c.start.add(row * c.row_stride), sum);
        }
    }
    ROWS
}

/// `c = (first ? 0 : c) + a * panel` for 1 to 6 rows, then `finish` if the sum is complete.
///
/// # Safety
/// The processor has AVX2 and FMA. `a` is readable for `rows` by `k`, `panel` for `k` by 16,
/// `c` writable for `rows` by 16 and, unless `first`, initialised.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn strip(
    rows: usize,
    k: usize,
    a: Left,
    panel: *const f32,
    c: Output,
    first: bool,
    finish: Option<&Finish<'_>>,
) {
    // SAFETY: the caller's promises are those of `tile`.
    unsafe {
        match rows {
            6 => tile::<6>(k, a, panel, c, first, finish),
            5 => tile::<5>(k, a, panel, c, first, finish),
            4 => tile::<4>(k, a, panel, c, first, finish),
            3 => tile::<3>(k, a, panel, c, first, finish),
            2 => tile::<2>(k, a, panel, c, first, finish),
            _ => tile::<1>(k, a, panel, c, first, finish),
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn tile<const ROWS: usize>(
    k: usize,
    a: Left,
    panel: *const f32,
    c: Output,
    first: bool,
    finish: Option<&Finish<'_>>,
) {
    let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
    // SAFETY: the caller promises that all of a, panel and c is there (see `strip`).
    unsafe {
        if !first {
            for (row, sums) in sums.iter_mut().enumerate() {
                let c = c.start.add(row * c.row_stride);
                *sums = [_mm256_loadu_ps(c), _mm256_loadu_ps(c.add(8))];
            }
        }
        let rows: [*const f32; ROWS] = std::array::from_fn(|row| a.start.wrapping_add(row * a.row_stride));
        for i in 0..k {
            let b = panel.add(i * PANEL);
            let (b0, b1) = (_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8)));
            for row in 0..ROWS {
                let x = _mm256_broadcast_ss(&*rows[row].add(i * a.stride));
                sums[row] = [_mm256_fmadd_ps(x, b0, sums[row][0]), _mm256_fmadd_ps(x, b1, sums[row][1])];
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            for (half, &sum) in sums.iter().enumerate() {
                let mut sum = sum;
                if let Some(finish) = finish {
                    sum = _mm256_add_ps(sum, load_at(finish.bias, 8 * half));
                    let (row, column) = (finish.row + row, finish.column + 8 * half);
                    sum = match finish.epilogue {
                        Epilogue::None => sum,
                        Epilogue::Gelu => gelu(sum),
                        Epilogue::Gated { residual, gate, gate_offsets } => _mm256_fmadd_ps(
                            sum,
                            load_at(gate, gate_offsets[row] + column),
                            load_at(residual, row * finish.columns + column),
                        ),
                    };
                }
                _mm256_storeu_ps(c.start.add(row * c.row_stride + 8 * half), sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Avx2;
    use super::*;
    use crate::testing::{numbers, randn};

    #[test]
    fn wide_rows_are_the_same_to_the_last_bit() {
        if Avx2::detect().is_none() || !is_x86_feature_detected!("avx512f") {
            return;
        }
        const K: usize = 37;
        let panel = numbers(&randn(1, K * PANEL));
        for num_rows in 1..30 {
            let a = numbers(&randn(2, num_rows * K));
            let left = Left { start: a.as_ptr(), row_stride: K, stride: 1 };
            let product = |wide, first| {
                let mut c = numbers(&randn(3, num_rows * PANEL));
                let out = Output { start: c.as_mut_ptr(), row_stride: PANEL };
                // SAFETY: the processor has the features; the buffers hold all rows.
                unsafe { rows(wide, num_rows, K, left, panel.as_ptr(), out, first) };
                c
            };
            for first in [true, false] {
                assert_eq!(product(true, first), product(false, first), "{num_rows} rows, first: {first}");
            }
        }
    }
}
