//! Rotary tables of a row: its text, then its pictures.
//!
//! Port of `Flux2PosEmbed`, and of the ids that the pipeline passes to it:
//! <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/models/transformers/transformer_flux2.py#L971>

use std::sync::Arc;

use candle_core::{Device, Result, Tensor};
use kernels::RopeTable;

use super::config::TransformerConfig;
use crate::rope_cache::RopeCache;

/// Time, row, column and text position of a token.
type Position = [usize; 4];

/// Distance in time between the generated picture and its references, and between references.
const REFERENCE_TIME: usize = 10;

/// Makes and caches the tables of (grids, text length) pairs.
pub struct RopeTables {
    axes_dims: Vec<usize>,
    theta: f64,
    device: Device,
    made: RopeCache,
}

impl RopeTables {
    /// Creates tables for heads whose channels are divided over the four axes as in `config.axes_dims_rope`.
    pub fn new(config: &TransformerConfig, device: Device) -> Self {
        let axes_dims = config.axes_dims_rope.clone();
        RopeTables { axes_dims, theta: config.rope_theta, device, made: RopeCache::default() }
    }

    /// Returns the bytes of all cached tables.
    pub(super) fn kept_bytes(&self) -> usize {
        self.made.bytes()
    }

    /// The same as [`RopeCache::keep_at_most`].
    pub(super) fn keep_at_most(&self, bytes: usize) {
        self.made.keep_at_most(bytes);
    }

    /// Returns the table of one row: the text positions, then the positions of each picture of `grids`. The generated
    /// picture is at time 0, its references at later times.
    ///
    /// # Errors
    /// The device fails.
    pub fn get(&self, grids: Vec<(usize, usize)>, text_len: usize) -> Result<Arc<RopeTable>> {
        self.made.get((grids, text_len), |(grids, text_len)| self.make(grids, *text_len))
    }

    /// Angles reach thousands of radians, so they stay f64 until their cosine is taken.
    fn make(&self, grids: &[(usize, usize)], text_len: usize) -> Result<RopeTable> {
        let text = (0..text_len).map(|k| [0, 0, 0, k]);
        let positions: Vec<Position> = text.chain(grids.iter().enumerate().flat_map(picture)).collect();
        let frequencies = self.frequencies();
        let half_dim = frequencies.len();
        let table = |function: fn(f64) -> f64| {
            let of_token = |position: &Position| -> Vec<f32> {
                frequencies.iter().map(|(axis, freq)| function(position[*axis] as f64 * freq) as f32).collect()
            };
            let values: Vec<f32> = positions.iter().flat_map(of_token).collect();
            Tensor::from_vec(values, (positions.len(), half_dim), &self.device)
        };
        RopeTable::new(&table(f64::cos)?, &table(f64::sin)?)
    }

    /// Returns the axis and the frequency of every pair of channels.
    fn frequencies(&self) -> Vec<(usize, f64)> {
        let of_axis = |(axis, &dim): (usize, &usize)| {
            (0..dim / 2).map(move |k| (axis, 1.0 / self.theta.powf((2 * k) as f64 / dim as f64))).collect::<Vec<_>>()
        };
        self.axes_dims.iter().enumerate().flat_map(of_axis).collect()
    }
}

/// Returns the positions of a picture's tokens, row by row. Picture 0 is the generated one.
fn picture((number, &(rows, columns)): (usize, &(usize, usize))) -> impl Iterator<Item = Position> {
    (0..rows * columns).map(move |i| [REFERENCE_TIME * number, i / columns, i % columns, 0])
}
