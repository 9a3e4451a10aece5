//! bfloat16 with f32 sums, as AMX multiplies. Rows are rounded to bf16; weights are bf16 already.

use half::bf16;

use super::tiles::{Format, PlainFormat, SIDE, STEP, Tile};

/// Elements per step.
const LEN: usize = STEP / 2;

/// The format that the module describes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bf16;

impl Format for Bf16 {
    type Sum = f32;
    type Row = ();
    type Output = ();
    const BYTES: usize = 2;

    #[inline(always)]
    fn pack_row(x: &[f32], tiles: &mut [Tile], lane: usize) {
        for (x, tile) in x.chunks(LEN).zip(tiles) {
            for (to, x) in tile.0[lane].as_chunks_mut::<2>().0.iter_mut().zip(x) {
                *to = nearest(*x).to_le_bytes();
            }
        }
    }

    #[inline(always)]
    fn pack_output(weights: &[f32], tiles: &mut [Tile], lane: usize) {
        for (weights, tile) in weights.chunks(LEN).zip(tiles) {
            // Round first, with vector instructions, and then spread the numbers over the groups.
            let mut rounded = [[0; 2]; LEN];
            rounded.iter_mut().zip(weights).for_each(|(to, weight)| *to = nearest(*weight).to_le_bytes());
            for (group, pair) in tile.0.iter_mut().zip(rounded.as_flattened().as_chunks::<4>().0) {
                group.as_chunks_mut::<4>().0[lane] = *pair;
            }
        }
    }

    fn unpack_output(tiles: &[Tile], lane: usize, (): (), weights: &mut [f32]) {
        for (weights, tile) in weights.chunks_mut(LEN).zip(tiles) {
            for (i, weight) in weights.iter_mut().enumerate() {
                let bytes = tile.group(i / 2, lane);
                *weight = bf16::from_le_bytes([bytes[2 * (i % 2)], bytes[2 * (i % 2) + 1]]).to_f32();
            }
        }
    }

    #[inline(always)]
    fn wide(sum: f32, (): (), (): ()) -> f32 {
        sum
    }
}

impl Bf16 {
    /// Writes one element of at most 16 outputs to its place in a tile of weights. The place holds zeros.
    #[inline(always)]
    pub(super) fn put_element(tile: &mut Tile, element: usize, weights: &[f32]) {
        let groups = tile.0[element / 2].as_chunks_mut::<4>().0;
        for (group, weight) in groups.iter_mut().zip(weights) {
            let bits = u32::from(nearest(*weight)) << (16 * (element % 2));
            *group = (u32::from_le_bytes(*group) | bits).to_le_bytes();
        }
    }
}

impl PlainFormat for Bf16 {
    /// Multiplies as the manual defines `tdpbf16ps`. Even and odd elements each form a chain of fused multiply-adds
    /// from zero. The sum of the two chains is added to the previous sum. Subnormal numbers become zeros of their sign.
    #[inline(always)]
    fn multiply_row(row: &[u8; STEP], weights: &Tile, sums: &mut [f32; SIDE]) {
        let mut chains = [[0f32; SIDE]; 2];
        for (pair, weights) in row.as_chunks::<4>().0.iter().zip(&weights.0) {
            for (half, chain) in chains.iter_mut().enumerate() {
                let x = wide([pair[2 * half], pair[2 * half + 1]]);
                for (sum, weights) in chain.iter_mut().zip(weights.as_chunks::<4>().0) {
                    *sum = normal(x.mul_add(wide([weights[2 * half], weights[2 * half + 1]]), *sum));
                }
            }
        }
        let [even, odd] = chains;
        for (sum, (even, odd)) in sums.iter_mut().zip(even.into_iter().zip(odd)) {
            *sum = normal(normal(*sum) + normal(even + odd));
        }
    }
}

#[inline(always)]
fn wide(bytes: [u8; 2]) -> f32 {
    normal(f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16))
}

#[inline(always)]
fn normal(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { 0f32.copysign(x) } else { x }
}

/// The bits of the nearest bf16, ties to even.
#[inline(always)]
fn nearest(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
    // Rounding up could carry the bits of a NaN into its sign.
    if x.is_nan() { (bits >> 16) as u16 | 0x40 } else { rounded }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_that_of_the_half_crate() {
        let bits =
            (0..=u32::MAX).step_by(65_521).chain([0, 1 << 31, 0x3f80_8000, 0x3f81_8000, 0x7f7f_ffff, 0x7fff_ffff]);
        for x in bits.map(f32::from_bits) {
            assert_eq!(nearest(x), bf16::from_f32(x).to_bits(), "{x:e}");
        }
    }

    #[test]
    fn pairs_are_summed_apart_and_the_tiny_is_nothing() {
        let mut row = [Tile::ZERO];
        Bf16::pack_row(&[1.0, 2f32.powi(-30), 1.0, 1e-39], &mut row, 0);
        let mut weights = [Tile::ZERO];
        Bf16::pack_output(&[1.0, 1.0, -1.0, 1e30], &mut weights, 3);
        let mut sums = [0.5; SIDE];
        Bf16::multiply_row(&row[0].0[0], &weights[0], &mut sums);
        // A single chain would have lost the small number next to the first 1.
        assert_eq!((sums[3], sums[0]), (0.5 + 2f32.powi(-30), 0.5));
        let mut sums = [0.0; SIDE];
        Bf16::multiply_row(&row[0].0[0], &weights[0], &mut sums);
        assert_eq!(sums[3], 2f32.powi(-30));
    }
}
