//! The interface of a backend: operations that it may compute faster than candle.
//!
//! An operation checks its operands and asks the backend. If the answer is `None`, the backend does not support the
//! operation, the float type or the shape, and the operation falls back to its reference.

use std::fmt::Debug;

use candle_core::{Result, Tensor};

use crate::operands::{CausalAttention, ConvInput, Epilogue, GroupNorm, JointAttention, SelfAttention};
use crate::{Guided, RowLayout, WeightedTensors};

/// A device's own implementations. Operands have been checked, and lie on its device.
pub(crate) trait Backend: Sync {
    /// The attended values of text and image.
    fn joint_attention(&self, _: &JointAttention<'_>) -> Result<Option<(Tensor, Tensor)>> {
        Ok(None)
    }

    /// Attention of `[tokens, heads * head_dim]` queries, keys and values.
    fn attention(&self, _q: &Tensor, _k: &Tensor, _v: &Tensor, _num_heads: usize) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// See [`CausalAttention`].
    fn causal_attention(&self, _: &CausalAttention<'_>) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// See [`SelfAttention`].
    fn self_attention(&self, _: &SelfAttention<'_>) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// The group norm of an `[h, w, c]` picture, followed by SiLU if `_with_silu`.
    fn group_norm(&self, _x: &Tensor, _: &GroupNorm, _with_silu: bool) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// See [`crate::modulated_layer_norm`].
    fn modulated_layer_norm(
        &self,
        _x: &Tensor,
        _shift: &Tensor,
        _scale: &Tensor,
        _: &RowLayout,
        _eps: f64,
    ) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// See [`crate::rms_norm`].
    fn rms_norm(&self, _x: &Tensor, _weight: &Tensor, _eps: f64) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// See [`crate::channel_norm`]; followed by SiLU if `_with_silu`.
    fn channel_norm(&self, _x: &Tensor, _gamma: &Tensor, _with_silu: bool) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// See [`crate::swiglu`].
    fn swiglu(&self, _gate_up: &Tensor) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// See [`crate::residual_diffs`].
    fn residual_diffs(&self, _rows: &[(&Tensor, &Tensor)]) -> Result<Option<Vec<f32>>> {
        Ok(None)
    }

    /// See [`crate::weighted_sums`].
    fn weighted_sums(&self, _: &[WeightedTensors<'_>]) -> Result<Option<Vec<Tensor>>> {
        Ok(None)
    }

    /// See [`crate::cat_rows`].
    fn cat_rows(&self, _parts: &[&Tensor]) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// See [`crate::guided`].
    fn guided(&self, _: &[Guided<'_>]) -> Result<Option<Vec<Tensor>>> {
        Ok(None)
    }

    /// Packs contiguous `[out, in]` weights of one float type, stacked one below the other, with an `[out]` bias.
    fn pack_linear(&self, _weights: &[Tensor], _bias: Option<&Tensor>) -> Result<Option<Box<dyn PackedLinear>>> {
        Ok(None)
    }

    /// Like `pack_linear`, with weights and rows rounded to eight bits: see [`crate::Linear::int8`].
    fn pack_int8(&self, _weights: &[Tensor], _bias: Option<&Tensor>) -> Result<Option<Box<dyn PackedLinear>>> {
        Ok(None)
    }

    /// Like `pack_linear`, with weights and rows rounded to eight-bit floats: see [`crate::Linear::fp8`].
    fn pack_fp8(&self, _weights: &[Tensor], _bias: Option<&Tensor>) -> Result<Option<Box<dyn PackedLinear>>> {
        Ok(None)
    }

    /// Packs `[out, in, 3, 3]` weights and an `[out]` bias.
    fn pack_conv(&self, _weight: &Tensor, _bias: &Tensor) -> Result<Option<Box<dyn PackedConv>>> {
        Ok(None)
    }
}

/// The backend without implementations of its own.
pub(crate) struct Reference;

impl Backend for Reference {}

/// A linear map's weights in a backend's layout.
pub(crate) trait PackedLinear: Debug + Send + Sync {
    fn in_features(&self) -> usize;
    fn out_features(&self) -> usize;
    /// The `[out, in]` weight as it was given, or as it was rounded to eight bits, and the bias.
    fn unpack(&self) -> Result<(Tensor, Tensor)>;
    /// The tensors that the map reads, in a fixed order: all of them on a GPU, none on the CPU.
    fn tensors(&self) -> Vec<&Tensor>;
    /// `[.., in]` to `[.., out]`, in the type of `x`; `None` if the reference has to compute it.
    fn forward(&self, x: &Tensor, epilogue: Epilogue<'_>) -> Result<Option<Tensor>>;
}

/// A convolution's weights in a backend's layout.
pub(crate) trait PackedConv: Debug + Send + Sync {
    fn in_channels(&self) -> usize;
    fn out_channels(&self) -> usize;
    /// The `[out, in, 3, 3]` weight as it was given, and the bias.
    fn unpack(&self) -> Result<(Tensor, Tensor)>;
    /// `[h, w, in]` to `[h, w, out]` plus `residual`, in the type of `x`; `None` if the reference has to compute it.
    fn forward(&self, x: &Tensor, input: ConvInput<'_>, residual: Option<&Tensor>) -> Result<Option<Tensor>>;
    /// See [`crate::Conv3x3::forward_stride2`].
    fn forward_stride2(&self, x: &Tensor) -> Result<Option<Tensor>>;
}
