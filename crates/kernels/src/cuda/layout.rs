//! Tensors in the layout that kernels require: numbers in groups of eight, at addresses that are multiples of 16 bytes.

use candle_core::{DType, Result, Tensor};

/// Numbers that a thread reads at a time.
pub(super) const WIDTH: usize = 8;

/// The tensor without gaps; the same tensor if it has none.
pub(super) fn dense(tensor: &Tensor) -> Result<Tensor> {
    if tensor.is_contiguous() && tensor.layout().start_offset().is_multiple_of(WIDTH) {
        return Ok(tensor.clone());
    }
    tensor.force_contiguous()
}

/// `[rows, dim]` vectors as numbers of `dtype`, each vector without gaps.
pub(super) struct RowVectors {
    pub(super) tensor: Tensor,
    /// The distance between vectors, in numbers.
    pub(super) stride: i32,
}

impl RowVectors {
    pub(super) fn of(vectors: &Tensor, dtype: DType) -> Result<Self> {
        let tensor = vectors.to_dtype(dtype)?;
        let (stride, step) = (tensor.stride()[0], tensor.stride()[1]);
        let aligned = stride.is_multiple_of(WIDTH) && tensor.layout().start_offset().is_multiple_of(WIDTH);
        let tensor = if step == 1 && aligned { tensor } else { tensor.force_contiguous()? };
        Ok(RowVectors { stride: tensor.stride()[0] as i32, tensor })
    }
}
