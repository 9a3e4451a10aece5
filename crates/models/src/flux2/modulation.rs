//! Shifts, scales and gates, made once a step and shared by all blocks of a kind.
//!
//! Port of `Flux2Modulation`:
//! <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/models/transformers/transformer_flux2.py#L1036>

use candle_core::Tensor;
use kernels::{RowLayout, modulated_layer_norm};

use crate::Result;
use crate::dit::selected;

/// Vectors of a stream, side by side for each row: shift, scale and gate of every *set*, a half of a
/// dual-stream block or a whole single-stream one. `[rows, 3 * sets * dim]`.
#[derive(Clone)]
pub struct Modulation {
    vectors: Tensor,
    num_sets: usize,
    eps: f64,
}

impl Modulation {
    /// From what the modulation's layer made of `SiLU(temb)`; `eps` is that of the norms.
    pub(super) fn new(vectors: Tensor, num_sets: usize, eps: f64) -> Self {
        Modulation { vectors, num_sets, eps }
    }

    /// All vectors as they were made, `[rows, 3 * sets * dim]`.
    pub fn vectors(&self) -> &Tensor {
        &self.vectors
    }

    /// `x` `[tokens, dim]`, normed, scaled and shifted for set `set`.
    ///
    /// # Errors
    /// The device fails.
    pub fn norm(&self, set: usize, x: &Tensor, rows: &RowLayout) -> Result<Tensor> {
        modulated_layer_norm(x, &self.chunk(3 * set)?, &self.chunk(3 * set + 1)?, rows, self.eps)
    }

    /// The gate of set `set`, `[rows, dim]`.
    ///
    /// # Errors
    /// The device fails.
    pub fn gate(&self, set: usize) -> Result<Tensor> {
        self.chunk(3 * set + 2)
    }

    /// The vectors of some of the rows.
    pub(super) fn select(&self, rows: &[usize]) -> Result<Self> {
        Ok(Modulation { vectors: selected(&self.vectors, rows)?, ..*self })
    }

    fn chunk(&self, i: usize) -> Result<Tensor> {
        let dim = self.vectors.dim(1)? / (3 * self.num_sets);
        self.vectors.narrow(1, i * dim, dim)
    }
}
