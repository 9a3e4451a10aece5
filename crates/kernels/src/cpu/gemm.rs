//! The register tile of every f32 matrix product.
//!
//! Right operands are *panels* of 16 columns, `[k][16]`. A tile takes as many panels as fill the registers. An element
//! of C is one chain of fused multiply-adds over k, which may be cut anywhere. So the bits of a product depend neither
//! on its blocking nor on the vector width.

use super::simd::{Simd, gelu, vectorized};

/// Columns of a panel.
pub(super) const PANEL: usize = 16;

/// A left operand: element (row, i) lies at `start + row * row_stride + i * stride`.
#[derive(Clone, Copy)]
pub(super) struct Left {
    pub(super) start: *const f32,
    pub(super) row_stride: usize,
    pub(super) stride: usize,
}

/// Panels that are `stride` floats apart.
#[derive(Clone, Copy)]
pub(super) struct Right {
    pub(super) start: *const f32,
    pub(super) stride: usize,
}

/// A result: element (row, column) lies at `start + row * row_stride + column`.
#[derive(Clone, Copy)]
pub(super) struct Output {
    pub(super) start: *mut f32,
    pub(super) row_stride: usize,
}

/// The operation on a product's sums before they are stored.
#[derive(Clone, Copy)]
pub(crate) enum Epilogue<'a> {
    /// No operation.
    None,
    /// The tanh approximation of GELU.
    Gelu,
    /// `residual + gate * sum`. `residual` is `[tokens, out]`. The gate of a token begins at
    /// `gate[gate_offsets[token]]`.
    Gated { residual: &'a [f32], gate: &'a [f32], gate_offsets: &'a [usize] },
}

/// The end of a sum: its bias, its epilogue, and the position of the tile in the whole result.
#[derive(Clone, Copy)]
pub(super) struct Finish<'a> {
    /// The bias of the tile's columns.
    pub(super) bias: &'a [f32],
    pub(super) epilogue: Epilogue<'a>,
    pub(super) row: usize,
    pub(super) column: usize,
    /// Columns of the whole result.
    pub(super) columns: usize,
}

/// The numbers of rows, panels and terms of a sum.
#[derive(Clone, Copy)]
pub(super) struct Size {
    pub(super) rows: usize,
    pub(super) panels: usize,
    pub(super) k: usize,
}

/// `c = (first ? 0 : c) + a * b` for any number of rows and panels.
///
/// # Safety
/// `a` is readable for `rows` by `k`, every panel of `b` for `k` by 16. `c` is writable for `rows` by 16 columns per
/// panel and, unless `first`, initialised.
#[inline(always)]
pub(super) unsafe fn multiply<S: Simd>(s: S, size: Size, a: Left, b: Right, c: Output, first: bool) {
    for panel in (0..size.panels).step_by(S::TILE.panels) {
        let panels = S::TILE.panels.min(size.panels - panel);
        let b = Right { start: b.start.wrapping_add(panel * b.stride), ..b };
        for row in (0..size.rows).step_by(S::TILE.rows) {
            let size = Size { rows: S::TILE.rows.min(size.rows - row), panels, ..size };
            let a = Left { start: a.start.wrapping_add(row * a.row_stride), ..a };
            let c = Output { start: c.start.wrapping_add(row * c.row_stride + panel * PANEL), ..c };
            // SAFETY: the caller's promises hold for this part of the rows and panels.
            unsafe { tile(s, size, a, b, c, first) };
        }
    }
}

/// Like [`multiply`], for at most as many rows and panels as [`Simd::TILE`] has.
///
/// # Safety
/// As for [`multiply`].
#[inline(always)]
pub(super) unsafe fn tile<S: Simd>(s: S, size: Size, a: Left, b: Right, c: Output, first: bool) {
    let vectors = size.panels * (PANEL / S::LANES);
    macro_rules! call {
        ($($rows:literal)*) => {
            match (size.rows, vectors) {
                // SAFETY: the caller's promises.
                $(($rows, 1) => vectorized!(s, unsafe { registers::<S, $rows, 1>(s, size.k, a, b, c, first) }),
                // SAFETY: the caller's promises.
                ($rows, 2) => vectorized!(s, unsafe { registers::<S, $rows, 2>(s, size.k, a, b, c, first) }),
                // SAFETY: the caller's promises.
                ($rows, 3) => vectorized!(s, unsafe { registers::<S, $rows, 3>(s, size.k, a, b, c, first) }),)*
                _ => unreachable!("a tile has at most 8 rows and 3 vectors. This is a bug."),
            }
        };
    }
    call!(1 2 3 4 5 6 7 8);
}

/// Computes `ROWS` by `VECTORS` sums, all in registers.
///
/// # Safety
/// As for [`multiply`].
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "as written, the compiler keeps all sums in registers")]
unsafe fn registers<S: Simd, const ROWS: usize, const VECTORS: usize>(
    s: S,
    k: usize,
    a: Left,
    b: Right,
    c: Output,
    first: bool,
) {
    let mut sums = [[s.splat(0.0); VECTORS]; ROWS];
    let (mut rows, mut columns) = ([a.start; ROWS], [b.start; VECTORS]);
    for (row, start) in rows.iter_mut().enumerate() {
        *start = a.start.wrapping_add(row * a.row_stride);
    }
    for (vector, start) in columns.iter_mut().enumerate() {
        let column = vector * S::LANES;
        *start = b.start.wrapping_add(column / PANEL * b.stride + column % PANEL);
    }
    // SAFETY: the caller promises all of a, b and c.
    unsafe {
        if !first {
            for row in 0..ROWS {
                for vector in 0..VECTORS {
                    sums[row][vector] = s.load_from(c.start.add(row * c.row_stride + vector * S::LANES));
                }
            }
        }
        for i in 0..k {
            let mut right = [s.splat(0.0); VECTORS];
            for vector in 0..VECTORS {
                right[vector] = s.load_from(columns[vector].add(i * PANEL));
            }
            for row in 0..ROWS {
                let x = s.splat(*rows[row].add(i * a.stride));
                for vector in 0..VECTORS {
                    sums[row][vector] = s.fma(x, right[vector], sums[row][vector]);
                }
            }
        }
        for row in 0..ROWS {
            for vector in 0..VECTORS {
                s.store_to(c.start.add(row * c.row_stride + vector * S::LANES), sums[row][vector]);
            }
        }
    }
}

/// Adds the bias to complete sums and applies the epilogue.
///
/// # Safety
/// `c` is readable and writable for `rows` by as many columns as there are biases, a multiple of 16.
#[inline(always)]
pub(super) unsafe fn finish<S: Simd>(s: S, rows: usize, c: Output, finish: &Finish<'_>) {
    for row in 0..rows {
        for (index, bias) in finish.bias.chunks_exact(S::LANES).enumerate() {
            let place = c.start.wrapping_add(row * c.row_stride + index * S::LANES);
            // SAFETY: the caller promises this row and these columns.
            let sum = s.add(unsafe { s.load_from(place) }, s.load(bias));
            let (row, column) = (finish.row + row, finish.column + index * S::LANES);
            let value = match finish.epilogue {
                Epilogue::None => sum,
                Epilogue::Gelu => gelu(s, sum),
                Epilogue::Gated { residual, gate, gate_offsets } => s.fma(
                    sum,
                    s.load(&gate[gate_offsets[row] + column..]),
                    s.load(&residual[row * finish.columns + column..]),
                ),
            };
            // SAFETY: as above.
            unsafe { s.store_to(place, value) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{numbers, on_each_simd, randn};

    const K: usize = 37;
    const PANELS: usize = 7;

    /// The product of `rows` rows. Unless `first`, the sums start from random numbers.
    fn product<S: Simd>(s: S, rows: usize, first: bool) -> Vec<f32> {
        let (a, b) = (numbers(&randn(2, rows * K)), numbers(&randn(1, PANELS * K * PANEL)));
        let mut c = numbers(&randn(3, rows * PANELS * PANEL));
        let left = Left { start: a.as_ptr(), row_stride: K, stride: 1 };
        let right = Right { start: b.as_ptr(), stride: K * PANEL };
        let out = Output { start: c.as_mut_ptr(), row_stride: PANELS * PANEL };
        let size = Size { rows, panels: PANELS, k: K };
        // SAFETY: the buffers hold all rows and panels.
        vectorized!(s, unsafe { multiply(s, size, left, right, out, first) });
        c
    }

    fn check<S: Simd>(s: S, name: &str) {
        for rows in 1..30 {
            for first in [true, false] {
                let expected = product(super::super::portable::Portable, rows, first);
                assert!(product(s, rows, first) == expected, "{name}, {rows} rows, first: {first}");
            }
        }
    }

    #[test]
    fn sums_are_the_same_to_the_last_bit_on_every_set() {
        on_each_simd!(check);
    }
}
