//! 3x3 convolutions of `[h, w, c]` pictures in bands of rows.
//!
//! A band's input is written once, with its zero border. A norm or an upsampling before the convolution is applied at
//! the same time. The tiles then read the input in place.

use std::cell::RefCell;
use std::ops::Range;

use super::conv_operands::{Input, InputPlanes, PanelConv};
use super::gemm::{Epilogue, Finish, Left, Output, PANEL, Right, Size, finish, multiply};
use super::group_norm::silu_pixel;
use super::narrow_conv::{NARROW, Narrow};
use super::norm::channel_norm_silu_pixel;
use super::parallel::{SharedMut, at_least, split};
use super::simd::{Simd, vectorized};
use super::winograd;
use crate::Watch;

/// Output rows of a band. The border of two rows is small in comparison.
const BAND: usize = 16;
/// The longest part of a sum at a time, which keeps a weight panel in the first-level cache.
const BLOCK_K: usize = 384;

thread_local! {
    /// A band's input, reused by later convolutions: fresh memory every time costs as much as the work.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl PanelConv {
    /// The convolution with zero padding 1 of an `[height, width, in]` picture after `input`, plus `residual`. If the
    /// work is interrupted, the result is incomplete or empty.
    pub(super) fn forward<S: Simd>(
        &self,
        s: S,
        pixels: &[f32],
        (height, width): (usize, usize),
        input: Input<'_>,
        residual: Option<&[f32]>,
    ) -> Vec<f32> {
        let scale = if let Input::Upsampled = input { 2 } else { 1 };
        let (height, width) = (scale * height, scale * width);
        let picture = InputPlanes { pixels, height, width, channels: self.in_channels, input };
        // Winograd pays off per output channel, and it transforms eight input channels at a time.
        if self.in_channels.is_multiple_of(8) && self.out_channels >= PANEL {
            let weights = self.winograd.get_or_init(|| winograd::transform_weights(s, self));
            return winograd::forward(s, self, weights, picture, residual);
        }
        self.direct(s, picture, (height, width), 1, residual)
    }

    /// The convolution with stride 2, padded at the right and the bottom only.
    pub(super) fn forward_stride2<S: Simd>(&self, s: S, pixels: &[f32], (height, width): (usize, usize)) -> Vec<f32> {
        let picture = InputPlanes { pixels, height, width, channels: self.in_channels, input: Input::Plain };
        self.direct(s, picture, (height / 2, width / 2), 2, None)
    }

    fn direct<S: Simd>(
        &self,
        s: S,
        picture: InputPlanes<'_>,
        (height, width): (usize, usize),
        stride: usize,
        residual: Option<&[f32]>,
    ) -> Vec<f32> {
        let len = height * width * self.out_channels;
        let mut out = Vec::with_capacity(len);
        let shared = SharedMut::spare(&mut out);
        let watch = Watch::current();
        let band_rows = BAND.min(height.div_ceil(rayon::current_num_threads()).max(1));
        split(height.div_ceil(band_rows), 1, &|bands| {
            SCRATCH.with_borrow_mut(|scratch| {
                for band in bands {
                    if watch.is_set() {
                        return;
                    }
                    let rows = band * band_rows..height.min((band + 1) * band_rows);
                    let numbers = rows.start * width * self.out_channels..rows.end * width * self.out_channels;
                    // SAFETY: no two bands share a row.
                    vectorized!(s, unsafe { self.direct_band(s, picture, rows, (width, stride), scratch, shared) });
                    let Some(residual) = residual else { continue };
                    // SAFETY: this thread has just written the band.
                    let out = unsafe {
                        std::slice::from_raw_parts_mut(shared.at(numbers.start, numbers.len()), numbers.len())
                    };
                    out.iter_mut().zip(&residual[numbers]).for_each(|(out, residual)| *out += residual);
                }
            });
        });
        if watch.is_set() {
            // Some bands may be missing.
            return Vec::new();
        }
        // SAFETY: the bands cover all rows, none was left out, and each writes every channel of its pixels.
        unsafe { out.set_len(len) };
        out
    }

    /// # Safety
    /// No other thread writes these rows of `out`.
    #[inline(always)]
    unsafe fn direct_band<S: Simd>(
        &self,
        s: S,
        picture: InputPlanes<'_>,
        rows: Range<usize>,
        (width, stride): (usize, usize),
        scratch: &mut Vec<f32>,
        out: SharedMut,
    ) {
        // Padding 1 on every side for stride 1, on the right and the bottom only for stride 2.
        let left = if stride == 1 { 1 } else { 0 };
        let columns = picture.width + 1 + left;
        let in_rows = (rows.len() - 1) * stride + 3;
        let first_row = (rows.start * stride) as isize - left as isize;
        let input = at_least(scratch, in_rows * columns * self.in_channels);
        picture.fill(s, first_row, left, columns, input);
        let band = DirectBand { set: s, weights: self, input, columns, stride, rows: rows.len(), width };
        let first = rows.start * width * self.out_channels;
        for panel in 0..self.bias.len() {
            let column = panel * PANEL;
            let channels = PANEL.min(self.out_channels - column);
            let span = (rows.len() * width - 1) * self.out_channels + channels;
            // SAFETY: the band's rows and the panel's columns lie inside out.
            let start = unsafe { out.at(first + column, span) };
            let output = Output { start, row_stride: self.out_channels };
            match channels {
                // SAFETY: as above.
                PANEL => unsafe { band.panel(panel, output) },
                // SAFETY: as above.
                ..=NARROW => unsafe { band.narrow(panel, channels, output) },
                // SAFETY: as above.
                _ => unsafe { band.panel_aside(panel, channels, output) },
            }
        }
    }
}

/// A band with its input laid out. Its output is `rows` rows of `width` pixels.
struct DirectBand<'a, S> {
    set: S,
    weights: &'a PanelConv,
    input: &'a [f32],
    columns: usize,
    stride: usize,
    rows: usize,
    width: usize,
}

impl<S: Simd> DirectBand<'_, S> {
    /// The three taps of a row are adjacent in the input. So a convolution is three matrix products whose left rows
    /// overlap.
    ///
    /// # Safety
    /// `out` is writable for 16 channels of every pixel.
    #[inline(always)]
    unsafe fn panel(&self, panel: usize, out: Output) {
        let in_channels = self.weights.in_channels;
        let (taps, step) = (3 * in_channels, self.stride * in_channels);
        let block = taps.div_ceil(taps.div_ceil(BLOCK_K));
        let bias = &self.weights.bias[panel];
        let end = Finish { bias, epilogue: Epilogue::None, row: 0, column: 0, columns: 0 };
        for ky in 0..3 {
            for from in (0..taps).step_by(block) {
                let len = block.min(taps - from);
                let (first, last) = (ky == 0 && from == 0, ky == 2 && from + len == taps);
                let weights = &self.weights.panels[((panel * 3 + ky) * taps + from) * PANEL..][..len * PANEL];
                for y in 0..self.rows {
                    let row = &self.input[(y * self.stride + ky) * self.columns * in_channels..];
                    let left = Left { start: row[from..].as_ptr(), row_stride: step, stride: 1 };
                    let right = Right { start: weights.as_ptr(), stride: 0 };
                    let start = out.start.wrapping_add(y * self.width * out.row_stride);
                    let (out, size) = (Output { start, ..out }, Size { rows: self.width, panels: 1, k: len });
                    // SAFETY: the row holds the taps of all its outputs; the caller promises the outputs.
                    unsafe {
                        multiply(self.set, size, left, right, out, first);
                        if last {
                            finish(self.set, self.width, out, &end);
                        }
                    }
                }
            }
        }
    }

    /// Computes a panel that extends past the last channel in a separate buffer.
    ///
    /// # Safety
    /// `out` is writable for these channels of all pixels.
    #[inline(always)]
    unsafe fn panel_aside(&self, panel: usize, channels: usize, out: Output) {
        let mut aside = vec![0.0; self.rows * self.width * PANEL];
        // SAFETY: the buffer holds the panel's columns of all pixels.
        unsafe { self.panel(panel, Output { start: aside.as_mut_ptr(), row_stride: PANEL }) };
        for (pixel, sums) in aside.chunks_exact(PANEL).enumerate() {
            // SAFETY: the pixel is in the band, and the caller promises the channels.
            unsafe {
                sums.as_ptr().copy_to_nonoverlapping(out.start.wrapping_add(pixel * out.row_stride), channels);
            }
        }
    }

    /// A panel with at most eight channels.
    ///
    /// # Safety
    /// As for `panel_aside`.
    #[inline(always)]
    unsafe fn narrow(&self, panel: usize, channels: usize, out: Output) {
        let in_channels = self.weights.in_channels;
        let taps = 3 * in_channels;
        let narrow = Narrow {
            panel: &self.weights.panels[panel * 3 * taps * PANEL..],
            bias: &self.weights.bias[panel],
            channels,
            taps,
            step: self.stride * in_channels,
        };
        for y in 0..self.rows {
            let rows = [0, 1, 2].map(|ky| &self.input[(y * self.stride + ky) * self.columns * in_channels..]);
            let start = out.start.wrapping_add(y * self.width * out.row_stride);
            // SAFETY: the row is in the band, and the caller promises the channels.
            unsafe { narrow.row(self.set.octets(), rows, self.width, start, out.row_stride) };
        }
    }
}

impl InputPlanes<'_> {
    /// Writes rows from `first_row` on until `out` is full. A row has `columns` pixels: `left` zeros, the picture's
    /// pixels, and zeros for the rest. Rows above or below the picture are zeros.
    #[inline(always)]
    pub(super) fn fill<S: Simd>(&self, s: S, first_row: isize, left: usize, columns: usize, out: &mut [f32]) {
        let channels = self.channels;
        for (y, out) in (first_row..).zip(out.chunks_exact_mut(columns * channels)) {
            if y < 0 || y as usize >= self.height {
                out.fill(0.0);
                continue;
            }
            let (before, rest) = out.split_at_mut(left * channels);
            let (row, behind) = rest.split_at_mut(self.width * channels);
            before.fill(0.0);
            behind.fill(0.0);
            self.fill_row(s, y as usize, row);
        }
    }

    #[inline(always)]
    fn fill_row<S: Simd>(&self, s: S, y: usize, out: &mut [f32]) {
        let row_len = out.len();
        match self.input {
            Input::Plain => out.copy_from_slice(&self.pixels[y * row_len..][..row_len]),
            Input::NormSilu(gamma) => {
                let pixels = self.pixels[y * row_len..][..row_len].chunks_exact(self.channels);
                for (out, pixel) in out.chunks_exact_mut(self.channels).zip(pixels) {
                    channel_norm_silu_pixel(s, pixel, gamma, out);
                }
            }
            Input::AffineSilu(affine) => {
                let pixels = self.pixels[y * row_len..][..row_len].chunks_exact(self.channels);
                for (out, pixel) in out.chunks_exact_mut(self.channels).zip(pixels) {
                    silu_pixel(s, pixel, affine, out);
                }
            }
            Input::Upsampled => {
                let pixels = self.pixels[y / 2 * (row_len / 2)..][..row_len / 2].chunks_exact(self.channels);
                for (out, pixel) in out.chunks_exact_mut(2 * self.channels).zip(pixels) {
                    let (first, second) = out.split_at_mut(self.channels);
                    first.copy_from_slice(pixel);
                    second.copy_from_slice(pixel);
                }
            }
        }
    }
}
