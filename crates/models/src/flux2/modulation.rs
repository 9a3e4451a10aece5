//! Shifts, scales and gates, computed once per step and shared by all blocks of a kind.
//!
//! Port of `Flux2Modulation`:
//! <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/models/transformers/transformer_flux2.py#L1036>

use candle_core::Tensor;
use kernels::{RowLayout, modulated_layer_norm};

use crate::Result;
use crate::dit::selected;

/// The modulation vectors of a stream, concatenated for each row: `[rows, 3 * sets * dim]`. A *set* is the shift, scale
/// and gate of half a dual-stream block or of a whole single-stream block.
#[derive(Clone)]
pub struct Modulation {
    vectors: Tensor,
    num_sets: usize,
    eps: f64,
}

impl Modulation {
    /// Wraps the modulation layer's output for `SiLU(temb)`; `eps` is the epsilon of the norms.
    pub(super) fn new(vectors: Tensor, num_sets: usize, eps: f64) -> Self {
        Modulation { vectors, num_sets, eps }
    }

    /// Returns all vectors, `[rows, 3 * sets * dim]`.
    pub fn vectors(&self) -> &Tensor {
        &self.vectors
    }

    /// Norms `x`, `[tokens, dim]`, then scales and shifts it with set `set`.
    ///
    /// # Errors
    /// The device fails.
    pub fn norm(&self, set: usize, x: &Tensor, rows: &RowLayout) -> Result<Tensor> {
        modulated_layer_norm(x, &self.chunk(3 * set)?, &self.chunk(3 * set + 1)?, rows, self.eps)
    }

    /// Returns the gate of set `set`, `[rows, dim]`.
    ///
    /// # Errors
    /// The device fails.
    pub fn gate(&self, set: usize) -> Result<Tensor> {
        self.chunk(3 * set + 2)
    }

    /// Selects the vectors of some rows.
    pub(super) fn select(&self, rows: &[usize]) -> Result<Self> {
        Ok(Modulation { vectors: selected(&self.vectors, rows)?, ..*self })
    }

    fn chunk(&self, i: usize) -> Result<Tensor> {
        let dim = self.vectors.dim(1)? / (3 * self.num_sets);
        self.vectors.narrow(1, i * dim, dim)
    }
}
