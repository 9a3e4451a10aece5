//! Rotary tables of a row: its text, then its pictures.
//!
//! Port of `QwenEmbedRope` with `scale_rope`:
//! <https://github.com/huggingface/diffusers/blob/v0.37.0/src/diffusers/models/transformers/transformer_qwenimage.py#L186>

use std::sync::Arc;

use candle_core::{Device, Result, Tensor};
use kernels::RopeTable;

use crate::rope_cache::RopeCache;

const THETA: f32 = 10_000.0;

/// Makes and caches the tables of (grids, text length) pairs, since a request needs the same one at every step.
pub struct RopeTables {
    axes_dims: [usize; 3],
    device: Device,
    made: RopeCache,
}

impl RopeTables {
    /// Creates tables for heads whose channels are divided over (frame, row, column) as `axes_dims`.
    pub fn new(axes_dims: [usize; 3], device: Device) -> Self {
        RopeTables { axes_dims, device, made: RopeCache::default() }
    }

    /// Returns the bytes of all cached tables.
    pub(super) fn kept_bytes(&self) -> usize {
        self.made.bytes()
    }

    /// The same as [`RopeCache::keep_at_most`].
    pub(super) fn keep_at_most(&self, bytes: usize) {
        self.made.keep_at_most(bytes);
    }

    /// Returns the table of one row: the text positions, then the positions of each picture of `grids`.
    ///
    /// Each picture is one frame, with rows and columns counted from its centre. Text starts past the longest half side
    /// of any picture and advances along all three axes.
    ///
    /// # Errors
    /// The device fails.
    pub fn get(&self, grids: Vec<(usize, usize)>, text_len: usize) -> Result<Arc<RopeTable>> {
        self.made.get((grids, text_len), |(grids, text_len)| self.make(grids, *text_len))
    }

    fn make(&self, grids: &[(usize, usize)], text_len: usize) -> Result<RopeTable> {
        let text_start = grids.iter().map(|&(rows, columns)| rows.max(columns) / 2).max().unwrap_or(0);
        let text = (0..text_len).map(|k| [(text_start + k) as f32; 3]);
        let positions: Vec<_> = text.chain(grids.iter().zip(0..).flat_map(picture)).collect();
        let frequencies = self.frequencies();
        let angles = positions.iter().flat_map(|position| {
            frequencies.iter().flat_map(move |(axis, freqs)| freqs.iter().map(move |freq| position[*axis] * freq))
        });
        let half_dim = self.axes_dims.iter().sum::<usize>() / 2;
        let angles: Vec<f32> = angles.collect();
        let angles = Tensor::from_vec(angles, (positions.len(), half_dim), &self.device)?;
        RopeTable::new(&angles.cos()?, &angles.sin()?)
    }

    fn frequencies(&self) -> Vec<(usize, Vec<f32>)> {
        let of_axis = |dim: usize| (0..dim / 2).map(|k| 1.0 / THETA.powf((2 * k) as f32 / dim as f32)).collect();
        self.axes_dims.iter().enumerate().map(|(axis, &dim)| (axis, of_axis(dim))).collect()
    }
}

/// Returns the frame, row and column of each token of a picture.
fn picture((&(rows, columns), frame): (&(usize, usize), u16)) -> impl Iterator<Item = [f32; 3]> {
    let centred = |i: usize, n: usize| i as f32 - (n - n / 2) as f32;
    (0..rows * columns).map(move |i| [f32::from(frame), centred(i / columns, rows), centred(i % columns, columns)])
}
