//! Products of tiles in fewer bits than f32. A tile is 16 rows by 64 bytes of k, like a tile of AMX.
//!
//! Rows are laid out as `[rows / 16][steps][16][64 bytes]`, weights as `[outputs / 16][steps][16][16 outputs][4
//! bytes]`. The four bytes of an output that are multiplied by four bytes of a row are adjacent, as VNNI and AMX both
//! require. So one layout serves every multiplier, and a [`Format`] defines the bytes.

use std::fmt::Debug;

/// Rows, and outputs, of a tile.
pub(super) const SIDE: usize = 16;
/// Bytes per row of a tile.
pub(super) const STEP: usize = 64;

/// 16 rows of 64 bytes, or 16 groups of four bytes of 16 outputs each.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Tile(pub(super) [[u8; STEP]; SIDE]);

impl Tile {
    pub(super) const ZERO: Tile = Tile([[0; STEP]; SIDE]);

    /// The four bytes of an output in one of the sixteen groups.
    pub(super) fn group(&self, group: usize, output: usize) -> [u8; 4] {
        let bytes = &self.0[group];
        std::array::from_fn(|i| bytes[4 * output + i])
    }
}

/// Sums of one row and 16 outputs.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct Sums<T>(pub(super) [T; SIDE]);

/// The meaning of a tile's bytes, and the conversion of a sum to f32.
pub(crate) trait Format: Debug + Send + Sync + 'static {
    type Sum: Copy + Debug + Default + Send + Sync;
    /// Data of a row of the left operand that its sums need.
    type Row: Copy + Debug + Default + Send + Sync;
    /// Data of an output that its sums need.
    type Output: Copy + Debug + Default + Send + Sync;
    /// Bytes per element.
    const BYTES: usize;

    /// Writes a row of the left operand to row `lane` of its tiles, which hold zeros.
    fn pack_row(x: &[f32], tiles: &mut [Tile], lane: usize) -> Self::Row;
    /// Writes the weights of one output to their place in its tiles, which hold zeros.
    fn pack_output(weights: &[f32], tiles: &mut [Tile], lane: usize) -> Self::Output;
    /// The weights of one output as the products use them.
    fn unpack_output(tiles: &[Tile], lane: usize, output: Self::Output, weights: &mut [f32]);
    /// A complete sum in f32.
    fn wide(sum: Self::Sum, row: Self::Row, output: Self::Output) -> f32;
}

/// The operands of one block of sums, `strips` times 16 rows by `panels` times 16 outputs.
#[derive(Clone, Copy)]
pub(super) struct Operands {
    /// The first tile of the first strip of rows.
    pub(super) a: *const Tile,
    /// Distance between strips, in tiles.
    pub(super) a_stride: usize,
    /// The first tile of the first panel of weights.
    pub(super) b: *const Tile,
    /// Distance between panels, in tiles.
    pub(super) b_stride: usize,
    /// The number of rows to compute. The sums of other rows are unspecified.
    pub(super) rows: usize,
    /// At least one, at most [`Multiplier::PANELS`].
    pub(super) panels: usize,
    /// Tiles to sum over, at least one.
    pub(super) steps: usize,
}

/// An implementation of the product of tiles.
pub(super) trait Multiplier<F: Format>: Copy + Send + Sync + 'static {
    /// Strips of rows in a block of sums.
    const STRIPS: usize;
    /// Panels of outputs in a block of sums.
    const PANELS: usize;
    /// The largest number of steps before the next block, so that the operands stay in the second-level cache.
    const STEPS: usize;
    /// The largest number of rows of a task.
    const TASK_ROWS: usize;
    /// A guard that lives while a task multiplies. Nothing else may run on the thread meanwhile.
    type Session;

    fn begin(self) -> Self::Session;

    /// `c = (first ? 0 : c) + a * b`; `c` is `[strips * 16][PANELS]`.
    ///
    /// # Safety
    /// All tiles of the operands are readable. `c` is writable and, unless `first`, holds sums. A session lives.
    unsafe fn multiply(self, operands: Operands, c: *mut Sums<F::Sum>, first: bool);
}

/// Multiplies in plain Rust, with the bits and the blocks of AMX.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plain;

/// Multiplies one row of a tile by a tile.
pub(super) trait PlainFormat: Format {
    fn multiply_row(row: &[u8; STEP], weights: &Tile, sums: &mut [Self::Sum; SIDE]);
}

impl<F: PlainFormat> Multiplier<F> for Plain {
    const STRIPS: usize = 2;
    const PANELS: usize = 2;
    const STEPS: usize = 48;
    const TASK_ROWS: usize = 256;
    type Session = ();

    fn begin(self) {}

    #[inline(always)]
    unsafe fn multiply(self, operands: Operands, c: *mut Sums<F::Sum>, first: bool) {
        let Operands { a, a_stride, b, b_stride, rows, panels, steps } = operands;
        for row in 0..rows {
            for panel in 0..panels {
                // SAFETY: the caller promises the tiles and the sums.
                let sums = unsafe { &mut *c.add(row * <Self as Multiplier<F>>::PANELS + panel) };
                if first {
                    *sums = Sums::default();
                }
                for step in 0..steps {
                    // SAFETY: as above.
                    let (a, b) = unsafe { (&*a.add(row / SIDE * a_stride + step), &*b.add(panel * b_stride + step)) };
                    F::multiply_row(&a.0[row % SIDE], b, &mut sums.0);
                }
            }
        }
    }
}
