//! Operations on tiles, independent of the instruction set.

use super::attention::{self, Stream};
use super::bf16::Bf16;
use super::gemm::Epilogue;
use super::simd::Simd;
use super::tile_head::InTiles;
use super::tile_linear::TiledWeights;
use super::tiles::{Format, Multiplier};

/// A linear map over tiles, independent of the instruction set.
pub(crate) trait TileLinear<F: Format>: Send + Sync {
    /// `[tokens, in]` to `[tokens, out]`.
    fn forward(&self, weights: &TiledWeights<F>, x: &[f32], epilogue: Epilogue<'_>) -> Vec<f32>;
}

/// Operations in bf16, independent of the instruction set.
pub(crate) trait Bf16Kernels: TileLinear<Bf16> {
    /// Like [`super::kernels::Kernels::joint_attention`].
    fn joint_attention(
        &self,
        streams: [Stream<'_>; 2],
        rope: &[(&[f32], &[f32])],
        num_heads: usize,
        eps: f64,
    ) -> [Vec<f32>; 2];
}

/// A multiplier of tiles, and the vector set for the work before and after it.
pub(super) struct With<S, M>(pub(super) S, pub(super) M);

impl<F: Format, S: Simd, M: Multiplier<F>> TileLinear<F> for With<S, M> {
    fn forward(&self, weights: &TiledWeights<F>, x: &[f32], epilogue: Epilogue<'_>) -> Vec<f32> {
        weights.forward(self.0, self.1, x, epilogue)
    }
}

impl<S: Simd, M: Multiplier<Bf16>> Bf16Kernels for With<S, M> {
    fn joint_attention(
        &self,
        streams: [Stream<'_>; 2],
        rope: &[(&[f32], &[f32])],
        num_heads: usize,
        eps: f64,
    ) -> [Vec<f32>; 2] {
        attention::joint(self.0, InTiles(self.1), streams, rope, num_heads, eps)
    }
}
