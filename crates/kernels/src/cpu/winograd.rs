//! Winograd's F(4x4, 3x3): 36 products for 16 outputs instead of 144.
//!
//! A tile of 4x4 outputs depends on 6x6 inputs d. With weights g its outputs are `A^T [(G g G^T) * (B^T d B)] A`. The
//! inner product is elementwise, so over channels it is 36 matrix products. <https://arxiv.org/abs/1509.09308>, points
//! 0, 1, -1, 2, -2. The largest error is about ten times that of a direct convolution: 6e-5 of unit variance.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::conv_operands::{InputPlanes, PanelConv};
use super::gemm::{Left, Output, PANEL, Right, Size, multiply};
use super::parallel::{SharedMut, at_least, split};
use super::simd::{Simd, vectorized};
use crate::Watch;

/// Outputs along a tile's side.
const TILE: usize = 4;
/// Elements of a transformed tile.
const PLACES: usize = 36;
/// The approximate number of tiles per band. The border of a band is small in comparison.
const BAND: usize = 256;
/// Floats per place of the transformed inputs that are multiplied together: half of a second-level cache.
const BLOCK: usize = 1 << 14;
/// The smallest number of tiles that are multiplied together, which is how often a cached weight is reused.
const MIN_BLOCK_TILES: usize = 84;
/// The longest part of a sum at a time. Its panel and its rows share a first-level cache.
const BLOCK_K: usize = 256;

thread_local! {
    /// Reused by later convolutions: fresh memory every time costs as much as the work.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// `G g G^T` as `[out / 16][36][in][16]`.
pub(super) fn transform_weights<S: Simd>(s: S, weights: &PanelConv) -> Vec<f32> {
    let in_channels = weights.in_channels;
    let mut transformed = vec![0.0; weights.bias.len() * PLACES * in_channels * PANEL];
    let panels = weights.panels.par_chunks(9 * in_channels * PANEL);
    transformed.par_chunks_mut(PLACES * in_channels * PANEL).zip(panels).for_each(|(transformed, panel)| {
        vectorized!(
            s,
            for column in (0..in_channels * PANEL).step_by(S::LANES) {
                transform_weight(s, panel, in_channels * PANEL, column, transformed);
            }
        );
    });
    transformed
}

/// Transforms a vector of columns of a panel whose places are `stride` apart.
#[inline(always)]
fn transform_weight<S: Simd>(s: S, panel: &[f32], stride: usize, column: usize, out: &mut [f32]) {
    let mut rows = [[s.splat(0.0); 3]; 6];
    for kx in 0..3 {
        let mut g = [s.splat(0.0); 3];
        for (ky, g) in g.iter_mut().enumerate() {
            *g = s.load(&panel[(ky * 3 + kx) * stride + column..]);
        }
        for (row, value) in rows.iter_mut().zip(weight_side(s, g)) {
            row[kx] = value;
        }
    }
    for (y, row) in rows.into_iter().enumerate() {
        for (x, value) in weight_side(s, row).into_iter().enumerate() {
            s.store(&mut out[(y * 6 + x) * stride + column..], value);
        }
    }
}

/// `G g`
#[inline(always)]
fn weight_side<S: Simd>(s: S, [a, b, c]: [S::Vector; 3]) -> [S::Vector; 6] {
    let outer = s.mul(s.add(a, c), s.splat(-1.0 / 6.0));
    let inner = s.mul(b, s.splat(1.0 / 6.0));
    let far = s.fma(a, s.splat(1.0 / 24.0), s.mul(c, s.splat(1.0 / 6.0)));
    let half = s.mul(b, s.splat(1.0 / 12.0));
    [s.mul(a, s.splat(0.25)), s.sub(outer, inner), s.add(outer, inner), s.add(far, half), s.sub(far, half), c]
}

/// `B^T d`
#[inline(always)]
fn input_side<S: Simd>(s: S, [a, b, c, d, e, f]: [S::Vector; 6]) -> [S::Vector; 6] {
    let (two, four, five) = (s.splat(2.0), s.splat(4.0), s.splat(5.0));
    let (even, odd) = (s.sub(e, c), s.sub(d, b));
    [
        s.fma(a, four, s.fnma(c, five, e)),
        s.fnma(s.add(b, c), four, s.add(d, e)),
        s.fma(s.sub(b, c), four, s.sub(e, d)),
        s.fma(odd, two, even),
        s.fnma(odd, two, even),
        s.fma(b, four, s.fnma(d, five, f)),
    ]
}

/// `A^T m`
#[inline(always)]
fn output_side<S: Simd>(s: S, [a, b, c, d, e, f]: [S::Vector; 6]) -> [S::Vector; 4] {
    let (sum, difference) = (s.add(b, c), s.sub(b, c));
    let (far_sum, far_difference) = (s.add(d, e), s.sub(d, e));
    [
        s.add(s.add(a, sum), far_sum),
        s.fma(far_difference, s.splat(2.0), difference),
        s.fma(far_sum, s.splat(4.0), sum),
        s.fma(far_difference, s.splat(8.0), s.add(difference, f)),
    ]
}

/// The convolution with padding 1, plus `residual`. Empty if the work is interrupted.
pub(super) fn forward<S: Simd>(
    s: S,
    weights: &PanelConv,
    transformed: &[f32],
    picture: InputPlanes<'_>,
    residual: Option<&[f32]>,
) -> Vec<f32> {
    let mut out = Vec::with_capacity(picture.height * picture.width * weights.out_channels);
    let convolution = Convolution { set: s, weights, transformed, picture, residual, out: SharedMut::spare(&mut out) };
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
                // SAFETY: no two bands share a row.
                vectorized!(s, unsafe { convolution.band(rows, scratch) });
            }
        });
    });
    if watch.is_set() {
        // Some bands may be missing.
        return Vec::new();
    }
    // SAFETY: the rows of all bands are the whole picture, and none was left out.
    unsafe { out.set_len(picture.height * picture.width * weights.out_channels) };
    out
}

/// The number of bands of tile rows, the same for every thread.
fn num_bands(tile_rows: usize, row_tiles: usize, threads: usize) -> usize {
    let band_rows = BAND.div_ceil(row_tiles).max(2);
    (tile_rows / band_rows).max(1).next_multiple_of(threads).min(tile_rows)
}

/// A convolution in progress.
struct Convolution<'a, S> {
    set: S,
    weights: &'a PanelConv,
    transformed: &'a [f32],
    picture: InputPlanes<'a>,
    residual: Option<&'a [f32]>,
    out: SharedMut,
}

/// Buffers per thread.
#[derive(Default)]
struct Scratch {
    /// Rows of the padded input.
    input: Vec<f32>,
    /// `[36][tiles][in]`
    inputs: Vec<f32>,
    /// `[36][tiles][columns]` of the panels that are transformed together.
    outputs: Vec<f32>,
}

impl<S: Simd> Convolution<'_, S> {
    /// Panels whose products are transformed back together, while they are still in the cache.
    const PANELS: usize = if S::TILE.panels > 1 { S::TILE.panels } else { 4 };

    /// # Safety
    /// No other thread writes the rows of these tiles.
    #[inline(always)]
    unsafe fn band(&self, tile_rows: Range<usize>, scratch: &mut Scratch) {
        let (in_channels, num_panels) = (self.weights.in_channels, self.weights.bias.len());
        let row_tiles = self.picture.width.div_ceil(TILE);
        let columns = row_tiles * TILE + 2;
        let input = at_least(&mut scratch.input, (tile_rows.len() * TILE + 2) * columns * in_channels);
        self.picture.fill(self.set, (tile_rows.start * TILE) as isize - 1, 1, columns, input);
        let num_tiles = tile_rows.len() * row_tiles;
        let most = (BLOCK / in_channels).max(MIN_BLOCK_TILES);
        let block = num_tiles.div_ceil(num_tiles.div_ceil(most));
        let inputs = at_least(&mut scratch.inputs, PLACES * block * in_channels);
        let outputs = at_least(&mut scratch.outputs, PLACES * block * Self::PANELS * PANEL);
        for first in (0..num_tiles).step_by(block) {
            let tiles = first..num_tiles.min(first + block);
            for (index, tile) in tiles.clone().enumerate() {
                let (y, x) = (tile / row_tiles, tile % row_tiles);
                let corner = (y * columns + x) * TILE * in_channels;
                let inputs = &mut inputs[index * in_channels..];
                transform_input(self.set, &input[corner..], columns * in_channels, in_channels, block, inputs);
            }
            for first in (0..num_panels).step_by(Self::PANELS) {
                let panels = first..num_panels.min(first + Self::PANELS);
                // SAFETY: the buffers hold a block of tiles at every place.
                unsafe { self.multiply(panels.clone(), tiles.len(), block, inputs, outputs) };
                for (index, tile) in tiles.clone().enumerate() {
                    let corner = ((tile_rows.start + tile / row_tiles) * TILE, tile % row_tiles * TILE);
                    let outputs = &outputs[index * Self::PANELS * PANEL..];
                    // SAFETY: the tile is in the band.
                    unsafe { self.write_tile(corner, panels.clone(), outputs, block * Self::PANELS * PANEL) };
                }
            }
        }
    }

    /// The 36 products of a block of tiles with a few panels.
    ///
    /// # Safety
    /// The buffers hold `block` tiles at every place.
    #[inline(always)]
    unsafe fn multiply(&self, panels: Range<usize>, tiles: usize, block: usize, inputs: &[f32], outputs: &mut [f32]) {
        let (in_channels, row_stride) = (self.weights.in_channels, Self::PANELS * PANEL);
        for place in 0..PLACES {
            let inputs = &inputs[place * block * in_channels..][..block * in_channels];
            let outputs = &mut outputs[place * block * row_stride..][..block * row_stride];
            let weights = &self.transformed[(panels.start * PLACES + place) * in_channels * PANEL..];
            for from in (0..in_channels).step_by(BLOCK_K) {
                let right = Right { start: weights[from * PANEL..].as_ptr(), stride: PLACES * in_channels * PANEL };
                let size = Size { rows: tiles, panels: panels.len(), k: BLOCK_K.min(in_channels - from) };
                let left = Left { start: inputs[from..].as_ptr(), row_stride: in_channels, stride: 1 };
                let out = Output { start: outputs.as_mut_ptr(), row_stride };
                // SAFETY: the tiles lie in both buffers.
                unsafe { multiply(self.set, size, left, right, out, from == 0) };
            }
        }
    }

    /// Transforms the 36 sums of a tile back for some panels, adds bias and residual, and writes the pixels inside the
    /// picture.
    ///
    /// # Safety
    /// No other thread writes this tile.
    #[inline(always)]
    unsafe fn write_tile(&self, (y, x): (usize, usize), panels: Range<usize>, sums: &[f32], place_stride: usize) {
        let (out_channels, first) = (self.weights.out_channels, panels.start * PANEL);
        let (rows, columns) = (TILE.min(self.picture.height - y), TILE.min(self.picture.width - x));
        let bias = self.weights.bias.as_flattened();
        let s = self.set;
        for channel in (first..out_channels.min(panels.end * PANEL)).step_by(S::LANES) {
            let mut half = [[s.splat(0.0); 6]; TILE];
            for column in 0..6 {
                let mut m = [s.splat(0.0); 6];
                for (row, m) in m.iter_mut().enumerate() {
                    *m = s.load(&sums[(row * 6 + column) * place_stride + channel - first..]);
                }
                for (half, value) in half.iter_mut().zip(output_side(s, m)) {
                    half[column] = value;
                }
            }
            for (row, half) in half.into_iter().enumerate().take(rows) {
                for (column, value) in output_side(s, half).into_iter().enumerate().take(columns) {
                    let index = ((y + row) * self.picture.width + x + column) * out_channels + channel;
                    let value = s.add(value, s.load(&bias[channel..]));
                    // SAFETY: the pixel lies inside the picture.
                    unsafe { self.write(index, out_channels - channel, value) };
                }
            }
        }
    }

    /// # Safety
    /// `index` is that of a channel of a pixel that no other thread writes, and `channels` channels follow.
    #[inline(always)]
    unsafe fn write(&self, index: usize, channels: usize, value: S::Vector) {
        let (s, channels) = (self.set, channels.min(S::LANES));
        let value = match self.residual {
            Some(residual) => s.add(value, s.load_some(&residual[index..index + channels])),
            None => value,
        };
        // SAFETY: the caller promises this number of channels.
        s.store_some(unsafe { std::slice::from_raw_parts_mut(self.out.at(index, channels), channels) }, value);
    }
}

/// `B^T d B` of a tile, a vector of channels at a time. Places are `block` tiles apart.
#[inline(always)]
fn transform_input<S: Simd>(s: S, input: &[f32], row_len: usize, channels: usize, block: usize, out: &mut [f32]) {
    let place_stride = block * channels;
    for channel in (0..channels).step_by(S::LANES) {
        let width = S::LANES.min(channels - channel);
        let mut half = [[s.splat(0.0); 6]; 6];
        for x in 0..6 {
            let mut d = [s.splat(0.0); 6];
            for (y, d) in d.iter_mut().enumerate() {
                *d = s.load_some(&input[y * row_len + x * channels + channel..][..width]);
            }
            for (half, value) in half.iter_mut().zip(input_side(s, d)) {
                half[x] = value;
            }
        }
        for (y, half) in half.into_iter().enumerate() {
            for (x, value) in input_side(s, half).into_iter().enumerate() {
                s.store_some(&mut out[(y * 6 + x) * place_stride + channel..][..width], value);
            }
        }
    }
}
