//! The last output channels of a direct 3x3 convolution if there are at most eight: a VAE's output to RGB, and all of a
//! convolution that is eight channels wide.
//!
//! A panel of sixteen would be half empty. Here a tile is eight pixels by eight channels. It stays in registers over
//! all nine kernel positions, because their sums are too short to store in between.

use super::gemm::PANEL;
use super::simd::Simd;

/// Pixels of a tile: as many sums as there are multiply-adds in flight.
const PIXELS: usize = 8;
/// The largest number of channels.
pub(super) const NARROW: usize = 8;

/// The weights of the last channels.
#[derive(Clone, Copy)]
pub(super) struct Narrow<'a> {
    /// `[3][taps][16]`, of which the first `channels` columns are used.
    pub(super) panel: &'a [f32],
    pub(super) bias: &'a [f32; PANEL],
    /// At most eight.
    pub(super) channels: usize,
    /// Numbers of the three input pixels of a kernel row.
    pub(super) taps: usize,
    /// The distance in floats from the input of one output pixel to that of the next.
    pub(super) step: usize,
}

impl Narrow<'_> {
    /// Computes a row of `width` output pixels from the three input rows. The output pixels are `pixel_stride` apart
    /// from `out` on. `s` has vectors of eight.
    ///
    /// # Safety
    /// `out` is writable for the channels of all pixels.
    #[inline(always)]
    pub(super) unsafe fn row<S: Simd>(
        &self,
        s: S,
        rows: [&[f32]; 3],
        width: usize,
        out: *mut f32,
        pixel_stride: usize,
    ) {
        assert!(rows.iter().all(|row| row.len() >= (width - 1) * self.step + self.taps));
        assert!(self.panel.len() >= 3 * self.taps * PANEL && self.channels <= NARROW);
        let rows = rows.map(<[f32]>::as_ptr);
        // SAFETY: the rows hold the taps of every pixel, as asserted; the caller promises the outputs.
        unsafe {
            if width < PIXELS {
                return (0..width).for_each(|x| self.tile::<S, 1>(s, rows, x, out, pixel_stride));
            }
            // The last tile may overlap the previous one. It then writes the same numbers again.
            for x in (0..width).step_by(PIXELS) {
                self.tile::<S, PIXELS>(s, rows, x.min(width - PIXELS), out, pixel_stride);
            }
        }
    }

    #[inline(always)]
    unsafe fn tile<S: Simd, const PIXELS: usize>(
        &self,
        s: S,
        rows: [*const f32; 3],
        x: usize,
        out: *mut f32,
        pixel_stride: usize,
    ) {
        let mut sums = [s.splat(0.0); PIXELS];
        // SAFETY: `row` has asserted that the rows and the panel hold what is read. Its caller promises `out`.
        unsafe {
            for (ky, row) in rows.into_iter().enumerate() {
                let pixels: [*const f32; PIXELS] = std::array::from_fn(|i| row.wrapping_add((x + i) * self.step));
                let weights = self.panel.as_ptr().add(ky * self.taps * PANEL);
                for tap in 0..self.taps {
                    let weight = s.load_from(weights.add(tap * PANEL));
                    for (sum, pixel) in sums.iter_mut().zip(pixels) {
                        *sum = s.fma(s.splat(*pixel.add(tap)), weight, *sum);
                    }
                }
            }
            let bias = s.load(self.bias);
            for (i, sum) in sums.into_iter().enumerate() {
                self.write(s, s.add(sum, bias), out.wrapping_add((x + i) * pixel_stride));
            }
        }
    }

    /// # Safety
    /// The channels of a pixel can be written from `out` on.
    #[inline(always)]
    unsafe fn write<S: Simd>(&self, s: S, value: S::Vector, out: *mut f32) {
        if self.channels == NARROW {
            // SAFETY: the caller promises eight channels.
            return unsafe { s.store_to(out, value) };
        }
        let mut eight = [0.0; NARROW];
        s.store(&mut eight, value);
        // SAFETY: the caller promises this number of channels.
        unsafe { eight.as_ptr().copy_to_nonoverlapping(out, self.channels) };
    }
}
