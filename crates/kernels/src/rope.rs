//! Tables of rotary position embeddings.

use candle_core::{DType, Result, Tensor, bail};

/// Cosines and sines of every position of a row, for embeddings that rotate *interleaved*
/// pairs `(x[2i], x[2i + 1])`, as diffusion transformers do.
#[derive(Clone, Debug)]
pub struct RopeTable {
    cos: Tensor,
    sin: Tensor,
}

impl RopeTable {
    /// Makes a table of `[positions, head_dim / 2]` cosines and sines, kept in f32 for the precision of the angles.
    ///
    /// # Errors
    /// The tables are not matrices of one shape.
    pub fn new(cos: &Tensor, sin: &Tensor) -> Result<Self> {
        let (positions, pairs) = cos.dims2()?;
        if sin.dims() != cos.dims() {
            bail!("sin must be [{positions}, {pairs}] as cos is. Given: {:?}", sin.dims())
        }
        let table = |t: &Tensor| t.to_dtype(DType::F32)?.contiguous();
        Ok(RopeTable { cos: table(cos)?, sin: table(sin)? })
    }

    /// The number of positions.
    #[expect(clippy::len_without_is_empty, reason = "a row without a position is never attended")]
    pub fn len(&self) -> usize {
        self.cos.dims()[0]
    }

    /// The cosines, `[positions, head_dim / 2]`, f32.
    pub fn cos(&self) -> &Tensor {
        &self.cos
    }

    /// The sines, `[positions, head_dim / 2]`, f32.
    pub fn sin(&self) -> &Tensor {
        &self.sin
    }
}
