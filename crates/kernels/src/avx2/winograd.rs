//! Winograd's F(4x4, 3x3): 36 products for 16 outputs instead of 144.
//!
//! A tile of 4x4 outputs sees 6x6 inputs d. With weights g its outputs are
//! `A^T [(G g G^T) * (B^T d B)] A`; the product in the middle is by element, so over channels
//! it is 36 matrix products. <https://arxiv.org/abs/1509.09308>, points 0, 1, -1, 2, -2.
//! The largest error is about ten times that of a direct convolution: 6e-5 of unit variance.

use std::arch::x86_64::{
    _mm256_add_ps, _mm256_fmadd_ps, _mm256_fnmadd_ps, _mm256_loadu_ps, _mm256_mul_ps, _mm256_setzero_ps,
    _mm256_storeu_ps, _mm256_sub_ps,
};
use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::conv::{Packed, Picture};
use super::gemm::{Left, Output, PANEL, rows};
use super::parallel::{SharedMut, at_least, split};
use super::simd::{F32x8, load_at, splat, store_at};
use crate::Watch;

/// Outputs of a tile's side.
const TILE: usize = 4;
/// Elements of a transformed tile.
const PLACES: usize = 36;
/// Tiles of a band, about: its border is little beside so many.
const BAND: usize = 256;
/// Floats of one place of the transformed inputs that are multiplied together: half of a
/// second-level cache.
const BLOCK: usize = 1 << 14;
/// Tiles that are at least multiplied together: so often is a weight used once it is near.
const MIN_BLOCK_TILES: usize = 84;
/// Longest part of a sum in one go: its panel and the rows that meet it share a first-level cache.
const BLOCK_K: usize = 256;
/// Panels whose products are transformed back together: what they write is then still near.
const PANELS: usize = 4;

thread_local! {
    /// Kept from one convolution to the next: memory that is new every time costs as much as the work.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// `G g G^T` as `[out / 16][36][in][16]`.
pub(super) fn transform_weights(weights: &Packed) -> Vec<f32> {
    let in_channels = weights.in_channels;
    let mut transformed = vec![0.0; weights.bias.len() * PLACES * in_channels * PANEL];
    let panels = weights.panels.par_chunks(9 * in_channels * PANEL);
    transformed.par_chunks_mut(PLACES * in_channels * PANEL).zip(panels).for_each(|(transformed, panel)| {
        for column in (0..in_channels * PANEL).step_by(8) {
            // SAFETY: packed weights exist only where the features do.
            unsafe { transform_weight(panel, in_channels * PANEL, column, transformed) };
        }
    });
    transformed
}

/// Eight columns of a panel whose places lie `stride` apart.
#[target_feature(enable = "avx2,fma")]
fn transform_weight(panel: &[f32], stride: usize, column: usize, out: &mut [f32]) {
    let mut rows = [[_mm256_setzero_ps(); 3]; 6];
    for kx in 0..3 {
        let g = [0, 1, 2].map(|ky| load_at(panel, (ky * 3 + kx) * stride + column));
        for (row, value) in rows.iter_mut().zip(weight_side(g)) {
            row[kx] = value;
        }
    }
    for (y, row) in rows.into_iter().enumerate() {
        for (x, value) in weight_side(row).into_iter().enumerate() {
            store_at(out, (y * 6 + x) * stride + column, value);
        }
    }
}

/// `G g`
#[inline]
#[target_feature(enable = "avx2,fma")]
fn weight_side([a, b, c]: [F32x8; 3]) -> [F32x8; 6] {
    let outer = _mm256_mul_ps(_mm256_add_ps(a, c), splat(-1.0 / 6.0));
    let inner = _mm256_mul_ps(b, splat(1.0 / 6.0));
    let far = _mm256_fmadd_ps(a, splat(1.0 / 24.0), _mm256_mul_ps(c, splat(1.0 / 6.0)));
    let half = _mm256_mul_ps(b, splat(1.0 / 12.0));
    [
        _mm256_mul_ps(a, splat(0.25)),
        _mm256_sub_ps(outer, inner),
        _mm256_add_ps(outer, inner),
        _mm256_add_ps(far, half),
        _mm256_sub_ps(far, half),
        c,
    ]
}

/// `B^T d`
#[inline]
#[target_feature(enable = "avx2,fma")]
fn input_side([a, b, c, d, e, f]: [F32x8; 6]) -> [F32x8; 6] {
    let (two, four, five) = (splat(2.0), splat(4.0), splat(5.0));
    let (even, odd) = (_mm256_sub_ps(e, c), _mm256_sub_ps(d, b));
    [
        _mm256_fmadd_ps(a, four, _mm256_fnmadd_ps(c, five, e)),
        _mm256_fnmadd_ps(_mm256_add_ps(b, c), four, _mm256_add_ps(d, e)),
        _mm256_fmadd_ps(_mm256_sub_ps(b, c), four, _mm256_sub_ps(e, d)),
        _mm256_fmadd_ps(odd, two, even),
        _mm256_fnmadd_ps(odd, two, even),
        _mm256_fmadd_ps(b, four, _mm256_fnmadd_ps(d, five, f)),
    ]
}

/// `A^T m`
#[inline]
#[target_feature(enable = "avx2,fma")]
fn output_side([a, b, c, d, e, f]: [F32x8; 6]) -> [F32x8; 4] {
    let (sum, difference) = (_mm256_add_ps(b, c), _mm256_sub_ps(b, c));
    let (far_sum, far_difference) = (_mm256_add_ps(d, e), _mm256_sub_ps(d, e));
    [
        _mm256_add_ps(_mm256_add_ps(a, sum), far_sum),
        _mm256_fmadd_ps(far_difference, splat(2.0), difference),
        _mm256_fmadd_ps(far_sum, splat(4.0), sum),
        _mm256_fmadd_ps(far_difference, splat(8.0), _mm256_add_ps(difference, f)),
    ]
}

/// The convolution with padding 1, plus `residual`; nothing once the work is interrupted. The input has a multiple of
/// 8 channels.
pub(super) fn forward(
    weights: &Packed,
    transformed: &[f32],
    picture: Picture<'_>,
    residual: Option<&[f32]>,
) -> Vec<f32> {
    let mut out = Vec::with_capacity(picture.height * picture.width * weights.out_channels);
    let (wide, out_rows) = (is_x86_feature_detected!("avx512f"), SharedMut::spare(&mut out));
    let convolution = Convolution { weights, transformed, picture, residual, wide, out: out_rows };
    let watch = Watch::current();
    let tile_rows = picture.height.div_ceil(TILE);
    let bands = num_bands(tile_rows, picture.width.div_ceil(TILE), rayon::current_num_threads());
    split(bands, 1, &|range| {
        SCRATCH.with_borrow_mut(|scratch| {
            for band in range {
                if watch.is_set() {
                    return;
                }
                let rows = band * tile_rows / bands..(band + 1) * tile_rows / bands;
                // SAFETY: packed weights exist only where the features do; no two bands share a row.
                unsafe { convolution.band(rows, scratch) };
            }
        });
    });
    if watch.is_set() {
        // Some bands may be missing.
        return Vec::new();
    }
    // SAFETY: the rows of all bands are the whole picture: none was left out.
    unsafe { out.set_len(picture.height * picture.width * weights.out_channels) };
    out
}

/// In how many bands the rows of tiles are worked through: equally many a thread.
fn num_bands(tile_rows: usize, row_tiles: usize, threads: usize) -> usize {
    let band_rows = BAND.div_ceil(row_tiles).max(2);
    (tile_rows / band_rows).max(1).next_multiple_of(threads).min(tile_rows)
}

/// One convolution under way.
struct Convolution<'a> {
    weights: &'a Packed,
    transformed: &'a [f32],
    picture: Picture<'a>,
    residual: Option<&'a [f32]>,
    /// Whether the processor has AVX-512.
    wide: bool,
    out: SharedMut,
}

/// Buffers of a thread.
#[derive(Default)]
struct Scratch {
    /// Rows of the padded input.
    input: Vec<f32>,
    /// `[36][tiles][in]`
    inputs: Vec<f32>,
    /// `[36][tiles][16 PANELS]`
    outputs: Vec<f32>,
}

impl Convolution<'_> {
    /// # Safety
    /// The processor has AVX2 and FMA, and nobody else writes the rows of these tiles.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn band(&self, tile_rows: Range<usize>, scratch: &mut Scratch) {
        let (in_channels, num_panels) = (self.weights.in_channels, self.weights.bias.len());
        let row_tiles = self.picture.width.div_ceil(TILE);
        let columns = row_tiles * TILE + 2;
        let input = at_least(&mut scratch.input, (tile_rows.len() * TILE + 2) * columns * in_channels);
        self.picture.fill((tile_rows.start * TILE) as isize - 1, 1, columns, input);
        let num_tiles = tile_rows.len() * row_tiles;
        let most = (BLOCK / in_channels).max(MIN_BLOCK_TILES);
        let block = num_tiles.div_ceil(num_tiles.div_ceil(most));
        let inputs = at_least(&mut scratch.inputs, PLACES * block * in_channels);
        let outputs = at_least(&mut scratch.outputs, PLACES * block * PANELS * PANEL);
        for first in (0..num_tiles).step_by(block) {
            let tiles = first..num_tiles.min(first + block);
            for (index, tile) in tiles.clone().enumerate() {
                let (y, x) = (tile / row_tiles, tile % row_tiles);
                let corner = (y * columns + x) * TILE * in_channels;
                let inputs = &mut inputs[index * in_channels..];
                transform_input(&input[corner..], columns * in_channels, in_channels, block, inputs);
            }
            for first in (0..num_panels).step_by(PANELS) {
                let panels = first..num_panels.min(first + PANELS);
                // SAFETY: the buffers hold a block of tiles at every place.
                unsafe { self.multiply(panels.clone(), tiles.len(), block, inputs, outputs) };
                for (index, tile) in tiles.clone().enumerate() {
                    let corner = ((tile_rows.start + tile / row_tiles) * TILE, tile % row_tiles * TILE);
                    let outputs = &outputs[index * PANELS * PANEL..];
                    // SAFETY: the tile is one of the band's.
                    unsafe { self.write_tile(corner, panels.clone(), outputs, block * PANELS * PANEL) };
                }
            }
        }
    }

    /// The 36 products of a block of tiles with a few panels.
    ///
    /// # Safety
    /// The processor has AVX2 and FMA; the buffers hold `block` tiles at every place.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn multiply(&self, panels: Range<usize>, tiles: usize, block: usize, inputs: &[f32], outputs: &mut [f32]) {
        let (in_channels, row_stride) = (self.weights.in_channels, PANELS * PANEL);
        for place in 0..PLACES {
            let inputs = &inputs[place * block * in_channels..][..block * in_channels];
            let outputs = &mut outputs[place * block * row_stride..][..block * row_stride];
            for (column, panel) in panels.clone().enumerate() {
                let weights = &self.transformed[(panel * PLACES + place) * in_channels * PANEL..];
                for from in (0..in_channels).step_by(BLOCK_K) {
                    let (weights, len) = (weights[from * PANEL..].as_ptr(), BLOCK_K.min(in_channels - from));
                    let left = Left { start: inputs[from..].as_ptr(), row_stride: in_channels, stride: 1 };
                    let out = Output { start: outputs[column * PANEL..].as_mut_ptr(), row_stride };
                    // SAFETY: the tiles lie in both buffers.
                    unsafe { rows(self.wide, tiles, len, left, weights, out, from == 0) };
                }
            }
        }
    }

    /// Transforms the 36 sums of a tile and some panels back, adds bias and residual, and writes
    /// what lies inside the picture.
    ///
    /// # Safety
    /// The processor has AVX2 and FMA, and nobody else writes this tile.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn write_tile(&self, (y, x): (usize, usize), panels: Range<usize>, sums: &[f32], place_stride: usize) {
        let (out_channels, first) = (self.weights.out_channels, panels.start * PANEL);
        let (rows, columns) = (TILE.min(self.picture.height - y), TILE.min(self.picture.width - x));
        let bias = self.weights.bias.as_flattened();
        for channel in (first..out_channels.min(panels.end * PANEL)).step_by(8) {
            let mut half = [[_mm256_setzero_ps(); 6]; TILE];
            for column in 0..6 {
                let sums =
                    [0, 1, 2, 3, 4, 5].map(|row| load_at(sums, (row * 6 + column) * place_stride + channel - first));
                for (half, value) in half.iter_mut().zip(output_side(sums)) {
                    half[column] = value;
                }
            }
            for (row, half) in half.into_iter().enumerate().take(rows) {
                for (column, value) in output_side(half).into_iter().enumerate().take(columns) {
                    let index = ((y + row) * self.picture.width + x + column) * out_channels + channel;
                    let value = _mm256_add_ps(value, load_at(bias, channel));
                    // SAFETY: the pixel lies inside the picture.
                    unsafe { self.write(index, out_channels - channel, value) };
                }
            }
        }
    }

    /// # Safety
    /// `index` is that of a channel of a pixel of our own, of which `channels` are left.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn write(&self, index: usize, channels: usize, value: F32x8) {
        if channels >= 8 {
            let value = self.residual.map_or(value, |residual| _mm256_add_ps(value, load_at(residual, index)));
            // SAFETY: eight channels are left.
            unsafe { _mm256_storeu_ps(self.out.at(index, 8), value) };
            return;
        }
        let mut eight = [0.0; 8];
        store_at(&mut eight, 0, value);
        for (i, value) in eight.into_iter().take(channels).enumerate() {
            let residual = self.residual.map_or(0.0, |residual| residual[index + i]);
            // SAFETY: the channel is one of those left.
            unsafe { *self.out.at(index + i, 1) = value + residual };
        }
    }
}

/// `B^T d B` of a tile, eight channels at a time; a place is `block` tiles from the next.
#[target_feature(enable = "avx2,fma")]
fn transform_input(input: &[f32], row_len: usize, channels: usize, block: usize, out: &mut [f32]) {
    let place_stride = block * channels;
    assert!(input.len() >= 5 * row_len + 6 * channels && out.len() >= (PLACES - 1) * place_stride + channels);
    for channel in (0..channels).step_by(8) {
        let mut half = [[_mm256_setzero_ps(); 6]; 6];
        for x in 0..6 {
            // SAFETY: 6 rows of 6 pixels lie in the input, as asserted.
            let d = [0, 1, 2, 3, 4, 5]
                .map(|y| unsafe { _mm256_loadu_ps(input.as_ptr().add(y * row_len + x * channels + channel)) });
            for (half, value) in half.iter_mut().zip(input_side(d)) {
                half[x] = value;
            }
        }
        for (y, half) in half.into_iter().enumerate() {
            for (x, value) in input_side(half).into_iter().enumerate() {
                // SAFETY: 36 places lie in the output, as asserted.
                unsafe {
                    _mm256_storeu_ps(out.as_mut_ptr().add((y * 6 + x) * place_stride + channel), value);
                }
            }
        }
    }
}
