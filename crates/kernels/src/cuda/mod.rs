//! The CUDA backend: kernels of this crate's `cuda/` folder, and products by cuBLASLt.
//!
//! Inputs and outputs are bf16 or f32; sums are f32. Other float types are left to candle's operations, and so are
//! feature counts that are not multiples of eight. Convolutions take any number of channels.

#![allow(unsafe_code, reason = "kernels are launched, and a library is called, through pointers")]

mod activation;
mod argument;
mod attention;
mod conv;
#[cfg(test)]
mod counts;
mod fp8;
mod gpu;
mod group_norm;
mod guidance;
mod layout;
mod linear;
mod lt;
mod norm;
mod qkv;
mod step;
mod streamed;
#[cfg(test)]
mod tests;

use candle_core::{Result, Tensor};

pub use self::attention::cuda_attention;
pub(crate) use self::gpu::forget;
pub(crate) use self::streamed::Streamed;

use crate::backend::{Backend, PackedConv, PackedLinear};
use crate::operands::{CausalAttention, GroupNorm, JointAttention, SelfAttention};
use crate::{Guided, RowLayout, WeightedTensors};

/// The backend of CUDA devices.
pub(crate) struct Cuda;

impl Backend for Cuda {
    fn joint_attention(&self, inputs: &JointAttention<'_>) -> Result<Option<(Tensor, Tensor)>> {
        attention::joint_attention(inputs)
    }

    fn causal_attention(&self, inputs: &CausalAttention<'_>) -> Result<Option<Tensor>> {
        attention::causal_attention(inputs)
    }

    fn self_attention(&self, inputs: &SelfAttention<'_>) -> Result<Option<Tensor>> {
        attention::self_attention(inputs)
    }

    fn group_norm(&self, x: &Tensor, norm: &GroupNorm, with_silu: bool) -> Result<Option<Tensor>> {
        group_norm::group_norm(x, norm, with_silu)
    }

    fn modulated_layer_norm(
        &self,
        x: &Tensor,
        shift: &Tensor,
        scale: &Tensor,
        rows: &RowLayout,
        eps: f64,
    ) -> Result<Option<Tensor>> {
        norm::modulated_layer_norm(x, shift, scale, rows, eps)
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f64) -> Result<Option<Tensor>> {
        norm::rms_norm(x, weight, eps)
    }

    fn channel_norm(&self, x: &Tensor, gamma: &Tensor, with_silu: bool) -> Result<Option<Tensor>> {
        norm::channel_norm(x, gamma, with_silu)
    }

    fn swiglu(&self, gate_up: &Tensor) -> Result<Option<Tensor>> {
        activation::swiglu(gate_up)
    }

    fn residual_diffs(&self, rows: &[(&Tensor, &Tensor)]) -> Result<Option<Vec<f32>>> {
        step::residual_diffs(rows)
    }

    fn weighted_sums(&self, sums: &[WeightedTensors<'_>]) -> Result<Option<Vec<Tensor>>> {
        step::weighted_sums(sums)
    }

    fn cat_rows(&self, parts: &[&Tensor]) -> Result<Option<Tensor>> {
        step::cat_rows(parts)
    }

    fn guided(&self, requests: &[Guided<'_>]) -> Result<Option<Vec<Tensor>>> {
        guidance::guided(requests)
    }

    fn pack_linear(&self, weights: &[Tensor], bias: Option<&Tensor>) -> Result<Option<Box<dyn PackedLinear>>> {
        Ok(linear::DeviceLinear::new(weights, bias)?.map(|packed| Box::new(packed) as Box<dyn PackedLinear>))
    }

    fn pack_conv(&self, weight: &Tensor, bias: &Tensor) -> Result<Option<Box<dyn PackedConv>>> {
        Ok(conv::DeviceConv::new(weight, bias)?.map(|packed| Box::new(packed) as Box<dyn PackedConv>))
    }

    fn pack_fp8(&self, weights: &[Tensor], bias: Option<&Tensor>) -> Result<Option<Box<dyn PackedLinear>>> {
        Ok(fp8::Fp8Linear::new(weights, bias)?.map(|packed| Box::new(packed) as Box<dyn PackedLinear>))
    }
}
