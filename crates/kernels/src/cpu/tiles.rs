//! Products of tiles: 16 rows by 64 bytes of k, as AMX holds them, in fewer bits than f32.
//!
//! Rows lie as `[rows / 16][steps][16][64 bytes]`, weights as `[outputs / 16][steps][16][16 outputs][4 bytes]`: the four
//! bytes of a row that meet the four bytes of an output are neighbours, which is what VNNI and AMX both ask for. So one
//! layout serves every multiplier, and a [`Format`] says what the bytes are.

use std::fmt::Debug;

/// Rows of a tile, and outputs.
pub(super) const SIDE: usize = 16;
/// Bytes of a row of a tile.
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

/// What the bytes of tiles are, and what makes an f32 of a sum.
pub(crate) trait Format: Debug + Send + Sync + 'static {
    type Sum: Copy + Debug + Default + Send + Sync;
    /// What a sum needs of its row, of the left operand.
    type Row: Copy + Debug + Default + Send + Sync;
    /// What a sum needs of its output.
    type Output: Copy + Debug + Default + Send + Sync;
    /// Bytes of an element.
    const BYTES: usize;

    /// Writes a row of the left operand to row `lane` of its tiles, which are zeros.
    fn pack_row(x: &[f32], tiles: &mut [Tile], lane: usize) -> Self::Row;
    /// Writes the weights of one output to their place in its tiles, which are zeros.
    fn pack_output(weights: &[f32], tiles: &mut [Tile], lane: usize) -> Self::Output;
    /// The weights of one output, as the products take them.
    fn unpack_output(tiles: &[Tile], lane: usize, output: Self::Output, weights: &mut [f32]);
    /// A complete sum in f32.
    fn wide(sum: Self::Sum, row: Self::Row, output: Self::Output) -> f32;
}

/// The operands of one block of sums, `strips` times 16 rows by `panels` times 16 outputs.
#[derive(Clone, Copy)]
pub(super) struct Operands {
    /// The first tile of the first strip of rows.
    pub(super) a: *const Tile,
    /// Tiles from a strip to the next.
    pub(super) a_stride: usize,
    /// The first tile of the first panel of weights.
    pub(super) b: *const Tile,
    /// Tiles from a panel to the next.
    pub(super) b_stride: usize,
    /// Rows that are wanted: the others' sums may be anything.
    pub(super) rows: usize,
    /// At least one, at most [`Multiplier::PANELS`].
    pub(super) panels: usize,
    /// Tiles to sum over, at least one.
    pub(super) steps: usize,
}

/// What multiplies tiles.
pub(super) trait Multiplier<F: Format>: Copy + Send + Sync + 'static {
    /// Strips of rows in a block of sums.
    const STRIPS: usize;
    /// Panels of outputs in a block of sums.
    const PANELS: usize;
    /// Most steps until the next block's turn, so that the operands stay in the second-level cache.
    const STEPS: usize;
    /// Most rows of a task.
    const TASK_ROWS: usize;
    /// What must live while a task multiplies. Nothing else may run on the thread meanwhile.
    type Session;

    fn begin(self) -> Self::Session;

    /// `c = (first ? 0 : c) + a * b`; `c` is `[strips * 16][PANELS]`.
    ///
    /// # Safety
    /// All tiles that the operands name are readable, `c` is writable and, unless `first`, holds sums; a session lives.
    unsafe fn multiply(self, operands: Operands, c: *mut Sums<F::Sum>, first: bool);
}

/// Multiplies in plain Rust, to the bit as AMX does, and in its blocks.
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
