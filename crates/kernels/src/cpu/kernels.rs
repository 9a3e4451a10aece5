//! The operations of an instruction set on plain numbers: one method per operation, implemented for every [`Simd`].

use super::attention::{self, Causal, Stream};
use super::conv_operands::{self, Input};
use super::gemm::Epilogue;
use super::group_norm::{self, Affine};
use super::head::InF32;
use super::linear;
use super::norm;
use super::numbers::RowVectors;
use super::simd::Simd;
use super::step;
use crate::RowLayout;

/// The f32 kernels of an instruction set. Shapes have been checked; a head has a multiple of 16 features.
pub(crate) trait Kernels: Send + Sync {
    /// `[tokens, in]` to `[tokens, out]`.
    fn linear(&self, weights: &linear::PanelLinear, x: &[f32], epilogue: Epilogue<'_>) -> Vec<f32>;
    /// The attended values of both streams; `rope` holds the cosines and sines of each row.
    fn joint_attention(
        &self,
        streams: [Stream<'_>; 2],
        rope: &[(&[f32], &[f32])],
        num_heads: usize,
        eps: f64,
    ) -> [Vec<f32>; 2];
    /// Attention with `dim` features in all.
    fn attention(&self, qkv: [&[f32]; 3], num_heads: usize, dim: usize) -> Vec<f32>;
    fn causal_attention(&self, inputs: Causal<'_>) -> Vec<f32>;
    /// Self-attention; `tables` holds the cosines and sines of every token.
    fn self_attention(
        &self,
        qkv: &[f32],
        tables: (&[f32], &[f32]),
        rows: &RowLayout,
        num_heads: usize,
        dim: usize,
    ) -> Vec<f32>;
    /// The convolution of an `[height, width, in]` picture, plus `residual`.
    fn conv(
        &self,
        weights: &conv_operands::PanelConv,
        pixels: &[f32],
        size: (usize, usize),
        input: Input<'_>,
        residual: Option<&[f32]>,
    ) -> Vec<f32>;
    fn conv_stride2(&self, weights: &conv_operands::PanelConv, pixels: &[f32], size: (usize, usize)) -> Vec<f32>;
    /// The group norm of the picture `x`, with its weight and bias.
    fn group_norm(&self, x: &[f32], weights: (&[f32], &[f32]), num_groups: usize, eps: f64) -> Affine;
    fn apply_group_norm(&self, x: &[f32], affine: &Affine, with_silu: bool) -> Vec<f32>;
    /// The modulated layer norm; `modulation` holds the shifts and scales of each row.
    fn modulated_layer_norm(
        &self,
        x: &[f32],
        dim: usize,
        modulation: (&RowVectors<'_>, &RowVectors<'_>),
        rows: &RowLayout,
        eps: f64,
    ) -> Vec<f32>;
    fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f64) -> Vec<f32>;
    fn channel_norm(&self, x: &[f32], gamma: &[f32]) -> Vec<f32>;
    fn swiglu(&self, gate_up: &[f32], features: usize) -> Vec<f32>;
    /// `sum(|previous - current|)` and `sum(|previous|)`.
    fn abs_sums(&self, current: &[f32], previous: &[f32]) -> (f64, f64);
    fn weighted_sum(&self, terms: &[(f32, &[f32])]) -> Vec<f32>;
}

impl<S: Simd> Kernels for S {
    fn linear(&self, weights: &linear::PanelLinear, x: &[f32], epilogue: Epilogue<'_>) -> Vec<f32> {
        weights.forward(*self, x, epilogue)
    }

    fn joint_attention(
        &self,
        streams: [Stream<'_>; 2],
        rope: &[(&[f32], &[f32])],
        num_heads: usize,
        eps: f64,
    ) -> [Vec<f32>; 2] {
        attention::joint(*self, InF32, streams, rope, num_heads, eps)
    }

    fn attention(&self, [q, k, v]: [&[f32]; 3], num_heads: usize, dim: usize) -> Vec<f32> {
        attention::plain(*self, q, k, v, num_heads, dim)
    }

    fn causal_attention(&self, inputs: Causal<'_>) -> Vec<f32> {
        attention::causal(*self, inputs)
    }

    fn self_attention(
        &self,
        qkv: &[f32],
        tables: (&[f32], &[f32]),
        rows: &RowLayout,
        num_heads: usize,
        dim: usize,
    ) -> Vec<f32> {
        attention::rotary_rows(*self, qkv, tables, rows, num_heads, dim)
    }

    fn conv(
        &self,
        weights: &conv_operands::PanelConv,
        pixels: &[f32],
        size: (usize, usize),
        input: Input<'_>,
        residual: Option<&[f32]>,
    ) -> Vec<f32> {
        weights.forward(*self, pixels, size, input, residual)
    }

    fn conv_stride2(&self, weights: &conv_operands::PanelConv, pixels: &[f32], size: (usize, usize)) -> Vec<f32> {
        weights.forward_stride2(*self, pixels, size)
    }

    fn group_norm(&self, x: &[f32], weights: (&[f32], &[f32]), num_groups: usize, eps: f64) -> Affine {
        group_norm::affine(*self, x, weights, num_groups, eps)
    }

    fn apply_group_norm(&self, x: &[f32], affine: &Affine, with_silu: bool) -> Vec<f32> {
        group_norm::apply(*self, x, affine, with_silu)
    }

    fn modulated_layer_norm(
        &self,
        x: &[f32],
        dim: usize,
        modulation: (&RowVectors<'_>, &RowVectors<'_>),
        rows: &RowLayout,
        eps: f64,
    ) -> Vec<f32> {
        norm::modulated_layer_norm(*self, x, dim, modulation, rows, eps)
    }

    fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f64) -> Vec<f32> {
        norm::rms_norm(*self, x, weight, eps)
    }

    fn channel_norm(&self, x: &[f32], gamma: &[f32]) -> Vec<f32> {
        norm::channel_norm(*self, x, gamma)
    }

    fn swiglu(&self, gate_up: &[f32], features: usize) -> Vec<f32> {
        norm::swiglu(*self, gate_up, features)
    }

    fn abs_sums(&self, current: &[f32], previous: &[f32]) -> (f64, f64) {
        step::abs_sums(*self, current, previous)
    }

    fn weighted_sum(&self, terms: &[(f32, &[f32])]) -> Vec<f32> {
        step::weighted_sum(*self, terms)
    }
}
