//! Symmetric eight-bit integers: one scale per output of the weights, one per row, and exact sums in i32.
//!
//! Weights are stored with an offset of 128, because multipliers take unsigned bytes times signed ones. The offset adds
//! 128 times the sum of the row to each sum.

use super::tiles::{Format, PlainFormat, SIDE, STEP, Tile};

/// The offset of stored weights.
const OFFSET: i32 = 128;
/// The largest magnitude.
const LARGEST: f32 = 127.0;

/// The format that the module describes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Int8;

/// What the sums need of their row.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Row {
    scale: f32,
    /// The amount that the weights' offset adds to each sum.
    excess: i32,
}

impl Format for Int8 {
    type Sum = i32;
    type Row = Row;
    /// The scale.
    type Output = f32;
    const BYTES: usize = 1;

    #[inline(always)]
    fn pack_row(x: &[f32], tiles: &mut [Tile], lane: usize) -> Row {
        let (scale, inverse) = scales(x);
        let mut sum = 0;
        for (x, tile) in x.chunks(STEP).zip(tiles) {
            for (to, x) in tile.0[lane].iter_mut().zip(x) {
                let number = nearest(x * inverse);
                sum += i32::from(number);
                *to = number as u8;
            }
        }
        Row { scale, excess: OFFSET * sum }
    }

    fn pack_output(weights: &[f32], tiles: &mut [Tile], lane: usize) -> f32 {
        let (scale, inverse) = scales(weights);
        for (weights, tile) in weights.chunks(STEP).zip(tiles) {
            for (i, weight) in weights.iter().enumerate() {
                tile.0[i / 4][4 * lane + i % 4] = (i32::from(nearest(weight * inverse)) + OFFSET) as u8;
            }
        }
        scale
    }

    fn unpack_output(tiles: &[Tile], lane: usize, scale: f32, weights: &mut [f32]) {
        for (weights, tile) in weights.chunks_mut(STEP).zip(tiles) {
            for (i, weight) in weights.iter_mut().enumerate() {
                *weight = (i32::from(tile.0[i / 4][4 * lane + i % 4]) - OFFSET) as f32 * scale;
            }
        }
    }

    #[inline(always)]
    fn wide(sum: i32, row: Row, scale: f32) -> f32 {
        (sum - row.excess) as f32 * (row.scale * scale)
    }
}

impl PlainFormat for Int8 {
    #[inline(always)]
    fn multiply_row(row: &[u8; STEP], weights: &Tile, sums: &mut [i32; SIDE]) {
        for (x, weights) in row.as_chunks::<4>().0.iter().zip(&weights.0) {
            for (sum, weights) in sums.iter_mut().zip(weights.as_chunks::<4>().0) {
                let products = x.iter().zip(weights).map(|(x, weight)| i32::from(*x as i8) * i32::from(*weight));
                *sum += products.sum::<i32>();
            }
        }
    }
}

/// The scale of a row, and its inverse, which maps the largest magnitude to 127. The scale is NaN if `x` has a NaN or
/// an infinity, so that the sums become NaN as in f32.
#[inline(always)]
fn scales(x: &[f32]) -> (f32, f32) {
    // Magnitudes compare like their bit patterns, with NaN as the largest.
    let largest = x.iter().fold(0, |largest: u32, x| largest.max(x.to_bits() & !(1 << 31)));
    let largest = f32::from_bits(largest);
    if !largest.is_finite() {
        (f32::NAN, 0.0)
    } else if largest < 1e-30 {
        // The inverse may be infinite.
        (0.0, 0.0)
    } else {
        (largest / LARGEST, LARGEST / largest)
    }
}

/// The nearest integer, ties to even, for `x` from -127.5 to 127.5. Undefined for any other `x`.
#[inline(always)]
fn nearest(x: f32) -> i8 {
    // An f32 of this size has no bits for fractions, so its last bits are the integer.
    const MAGIC: f32 = 12_582_912.0;
    (x + MAGIC).to_bits() as i8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_to_even() {
        for (x, expected) in [(0.0, 0), (0.5, 0), (1.5, 2), (-1.5, -2), (-2.5, -2), (127.2, 127), (-127.0, -127)] {
            assert_eq!(nearest(x), expected, "{x}");
        }
    }

    #[test]
    fn a_row_is_scaled_by_its_largest_number() {
        let mut tiles = [Tile::ZERO; 2];
        let mut x = vec![0.0; 70];
        (x[0], x[3], x[69]) = (1.0, -0.5, -2.0);
        let row = Int8::pack_row(&x, &mut tiles, 5);
        assert_eq!((tiles[0].0[5][0] as i8, tiles[0].0[5][3] as i8, tiles[1].0[5][5] as i8), (64, -32, -127));
        assert_eq!((row.scale, row.excess), (2.0 / 127.0, 128 * (64 - 32 - 127)));
        assert!(tiles[0].0[4] == [0; STEP] && tiles[1].0[5][6..] == [0; STEP - 6]);
    }

    #[test]
    fn what_is_no_number_tells_and_what_is_tiny_is_nothing() {
        for x in [f32::NAN, f32::INFINITY, -f32::INFINITY] {
            let row = Int8::pack_row(&[1.0, x, 2.0], &mut [Tile::ZERO], 0);
            assert!(Int8::wide(7, row, 1.0).is_nan(), "{x}");
        }
        for x in [0.0, -0.0, 1e-42, -1e-37] {
            let row = Int8::pack_row(&[x, x], &mut [Tile::ZERO], 0);
            assert_eq!(Int8::wide(0, row, 1.0), 0.0, "{x}");
        }
    }
}
