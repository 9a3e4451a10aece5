//! The CPU backend: turns operands into plain numbers for the kernels of the current instruction set.
//!
//! Work is split over rayon's threads by output rows, columns or heads. The order of the summation of an output element
//! depends only on the length of its own sum. So a row has the same bits whatever rows are next to it and however many
//! threads there are.

#![allow(unsafe_code, reason = "vector intrinsics, and tiles written through pointers")]

#[cfg(target_arch = "x86_64")]
mod amx;
mod attention;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
mod bf16;
mod conv;
mod conv_operands;
#[cfg(target_arch = "x86_64")]
mod dots;
#[cfg(target_arch = "x86_64")]
mod dpbf16;
mod gemm;
mod group_norm;
mod head;
mod int8;
mod kernels;
mod linear;
mod narrow_conv;
mod norm;
mod numbers;
mod parallel;
pub(crate) mod portable;
pub(crate) mod sets;
mod simd;
mod step;
mod tile_head;
mod tile_kernels;
mod tile_linear;
mod tiles;
#[cfg(target_arch = "x86_64")]
mod vnni;
mod weights;
#[cfg(target_arch = "x86_64")]
mod widened;
mod winograd;

use candle_core::{DType, Result, Tensor};

use self::attention::{Causal, Stream};
use self::bf16::Bf16;
use self::int8::Int8;
use self::kernels::Kernels;
use self::numbers::{F32, RowVectors, tensor, wide};
use crate::backend::{Backend, PackedConv, PackedLinear};
use crate::operands::{AttentionStream, CausalAttention, GroupNorm, JointAttention, Products, SelfAttention};
use crate::{RowLayout, WeightedTensors};

/// The backend of the CPU.
pub(crate) struct Cpu;

/// The current kernels, if they support heads of `head_dim` features.
fn kernels_for(head_dim: usize) -> Option<&'static dyn Kernels> {
    sets::current().filter(|_| head_dim.is_multiple_of(16))
}

fn boxed(packed: impl PackedLinear + 'static) -> Box<dyn PackedLinear> {
    Box::new(packed)
}

/// The numbers of a bias; empty if there is no bias.
fn bias_numbers(bias: Option<&Tensor>) -> Result<Vec<f32>> {
    Ok(bias.map(|bias| wide(bias)?.to_vec1::<f32>()).transpose()?.unwrap_or_default())
}

/// The sum of at least one term; `None` unless all terms are f32.
fn weighted_sum(kernels: &dyn Kernels, terms: &[(f64, &Tensor)]) -> Result<Option<Tensor>> {
    let tensors = terms.iter().map(|(_, term)| term.contiguous()).collect::<Result<Vec<_>>>()?;
    let Some(views) = tensors.iter().map(F32::of).collect::<Option<Vec<_>>>() else { return Ok(None) };
    let terms: Vec<_> = terms.iter().zip(&views).map(|((weight, _), term)| (*weight as f32, &**term)).collect();
    tensor(kernels.weighted_sum(&terms), tensors[0].shape()).map(Some)
}

impl Backend for Cpu {
    fn joint_attention(&self, inputs: &JointAttention<'_>) -> Result<Option<(Tensor, Tensor)>> {
        let dim = inputs.image.qkv.dim(1)? / 3;
        let Some(kernels) = kernels_for(dim / inputs.num_heads) else { return Ok(None) };
        let operands = |stream: &AttentionStream<'_>| -> Result<[Tensor; 3]> {
            Ok([stream.qkv.contiguous()?, wide(stream.norm_q)?, wide(stream.norm_k)?])
        };
        let operands = [operands(&inputs.text)?, operands(&inputs.image)?];
        let [Some(text), Some(image)] =
            operands.each_ref().map(|[qkv, norm_q, norm_k]| Some((F32::of(qkv)?, F32::of(norm_q)?, F32::of(norm_k)?)))
        else {
            return Ok(None);
        };
        let tables = inputs.rope.iter().map(|table| Some((F32::of(table.cos())?, F32::of(table.sin())?)));
        let Some(tables) = tables.collect::<Option<Vec<_>>>() else { return Ok(None) };
        let streams = [(&text, inputs.text.rows), (&image, inputs.image.rows)]
            .map(|((qkv, norm_q, norm_k), rows)| Stream { qkv, norm_q, norm_k, rows });
        let rope: Vec<(&[f32], &[f32])> = tables.iter().map(|(cos, sin)| (&**cos, &**sin)).collect();
        let in_bf16 = match inputs.products {
            Products::F32 => None,
            Products::Bf16 => sets::current_tiles().and_then(|tiles| tiles.bf16.as_deref()),
        };
        let [text, image] = match in_bf16 {
            Some(kernels) => kernels.joint_attention(streams, &rope, inputs.num_heads, inputs.eps),
            None => kernels.joint_attention(streams, &rope, inputs.num_heads, inputs.eps),
        };
        let text = tensor(text, (inputs.text.rows.total(), dim))?;
        Ok(Some((text, tensor(image, (inputs.image.rows.total(), dim))?)))
    }

    fn attention(&self, q: &Tensor, k: &Tensor, v: &Tensor, num_heads: usize) -> Result<Option<Tensor>> {
        let dim = q.dim(1)?;
        let Some(kernels) = kernels_for(dim / num_heads).filter(|_| k.dims()[0] > 0) else { return Ok(None) };
        let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
        let (Some(queries), Some(k), Some(v)) = (F32::of(&q), F32::of(&k), F32::of(&v)) else { return Ok(None) };
        tensor(kernels.attention([&queries, &k, &v], num_heads, dim), q.shape()).map(Some)
    }

    fn causal_attention(&self, inputs: &CausalAttention<'_>) -> Result<Option<Tensor>> {
        let CausalAttention { num_heads, num_kv_heads, valid, .. } = *inputs;
        let (tokens, width) = inputs.qkv.dims2()?;
        let head_dim = width / (num_heads + 2 * num_kv_heads);
        let Some(kernels) = kernels_for(head_dim) else { return Ok(None) };
        let (qkv, cos, sin) = (inputs.qkv.contiguous()?, wide(inputs.cos)?, wide(inputs.sin)?);
        let norms = inputs.norms.map(|norms| -> Result<_> { Ok((wide(norms.q)?, wide(norms.k)?)) }).transpose()?;
        let (Some(qkv), Some(cos), Some(sin)) = (F32::of(&qkv), F32::of(&cos), F32::of(&sin)) else { return Ok(None) };
        let norms = norms.as_ref().map(|(q, k)| F32::of(q).zip(F32::of(k)));
        let Some(norms) = norms.map_or(Some(None), |norms| norms.map(Some)) else { return Ok(None) };
        let attended = kernels.causal_attention(Causal {
            qkv: &qkv,
            norms: norms.as_ref().map(|(q, k)| (&**q, &**k)),
            eps: inputs.norms.map_or(0.0, |norms| norms.eps),
            cos: &cos,
            sin: &sin,
            num_heads,
            num_kv_heads,
            head_dim,
            valid,
        });
        tensor(attended, (tokens, num_heads * head_dim)).map(Some)
    }

    fn self_attention(&self, inputs: &SelfAttention<'_>) -> Result<Option<Tensor>> {
        let dim = inputs.qkv.dim(1)? / 3;
        let Some(kernels) = kernels_for(dim / inputs.num_heads) else { return Ok(None) };
        let (qkv, cos, sin) = (inputs.qkv.contiguous()?, wide(inputs.cos)?, wide(inputs.sin)?);
        let (Some(qkv), Some(cos), Some(sin)) = (F32::of(&qkv), F32::of(&cos), F32::of(&sin)) else { return Ok(None) };
        let attended = kernels.self_attention(&qkv, (&cos, &sin), inputs.rows, inputs.num_heads, dim);
        tensor(attended, (inputs.rows.total(), dim)).map(Some)
    }

    fn group_norm(&self, x: &Tensor, norm: &GroupNorm, with_silu: bool) -> Result<Option<Tensor>> {
        let (Some(kernels), Some(pixels)) = (sets::current(), F32::of(x)) else { return Ok(None) };
        let (Some(weight), Some(bias)) = (F32::of(&norm.weight), F32::of(&norm.bias)) else { return Ok(None) };
        let affine = kernels.group_norm(&pixels, (&weight, &bias), norm.num_groups, norm.eps);
        tensor(kernels.apply_group_norm(&pixels, &affine, with_silu), x.shape()).map(Some)
    }

    fn modulated_layer_norm(
        &self,
        x: &Tensor,
        shift: &Tensor,
        scale: &Tensor,
        rows: &RowLayout,
        eps: f64,
    ) -> Result<Option<Tensor>> {
        let (Some(kernels), x) = (sets::current(), x.contiguous()?) else { return Ok(None) };
        let Some(numbers) = F32::of(&x) else { return Ok(None) };
        let (Some(shift), Some(scale)) = (RowVectors::of(shift), RowVectors::of(scale)) else { return Ok(None) };
        tensor(kernels.modulated_layer_norm(&numbers, x.dim(1)?, (&shift, &scale), rows, eps), x.shape()).map(Some)
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f64) -> Result<Option<Tensor>> {
        let (Some(kernels), x, weight) = (sets::current(), x.contiguous()?, wide(weight)?) else { return Ok(None) };
        let (Some(numbers), Some(weight)) = (F32::of(&x), F32::of(&weight)) else { return Ok(None) };
        tensor(kernels.rms_norm(&numbers, &weight, eps), x.shape()).map(Some)
    }

    /// Declines SiLU: convolutions apply it while they lay out their input.
    fn channel_norm(&self, x: &Tensor, gamma: &Tensor, with_silu: bool) -> Result<Option<Tensor>> {
        let kernels = sets::current().filter(|_| !with_silu);
        let (Some(kernels), x, gamma) = (kernels, x.contiguous()?, wide(gamma)?) else { return Ok(None) };
        let (Some(numbers), Some(gamma)) = (F32::of(&x), F32::of(&gamma)) else { return Ok(None) };
        tensor(kernels.channel_norm(&numbers, &gamma), x.shape()).map(Some)
    }

    fn swiglu(&self, gate_up: &Tensor) -> Result<Option<Tensor>> {
        let (tokens, columns) = gate_up.dims2()?;
        let (Some(kernels), gate_up) = (sets::current(), gate_up.contiguous()?) else { return Ok(None) };
        let Some(numbers) = F32::of(&gate_up) else { return Ok(None) };
        tensor(kernels.swiglu(&numbers, columns / 2), (tokens, columns / 2)).map(Some)
    }

    fn residual_diffs(&self, rows: &[(&Tensor, &Tensor)]) -> Result<Option<Vec<f32>>> {
        let Some(kernels) = sets::current() else { return Ok(None) };
        let mut diffs = Vec::new();
        for (current, previous) in rows {
            let (current, previous) = (current.contiguous()?, previous.contiguous()?);
            let (Some(current), Some(previous)) = (F32::of(&current), F32::of(&previous)) else { return Ok(None) };
            let (diff, size) = kernels.abs_sums(&current, &previous);
            diffs.push((diff / size) as f32);
        }
        Ok(Some(diffs))
    }

    fn weighted_sums(&self, sums: &[WeightedTensors<'_>]) -> Result<Option<Vec<Tensor>>> {
        let Some(kernels) = sets::current() else { return Ok(None) };
        sums.iter().map(|terms| weighted_sum(kernels, terms)).collect()
    }

    fn pack_linear(&self, weights: &[Tensor], bias: Option<&Tensor>) -> Result<Option<Box<dyn PackedLinear>>> {
        if sets::current().is_none() {
            return Ok(None);
        }
        let bias = bias_numbers(bias)?;
        if sets::multiplies_bf16() && weights[0].dtype() == DType::BF16 {
            return Ok(tile_linear::TiledWeights::<Bf16>::new(weights, &bias)?.map(boxed));
        }
        Ok(linear::PanelLinear::new(weights, &bias)?.map(boxed))
    }

    fn pack_int8(&self, weights: &[Tensor], bias: Option<&Tensor>) -> Result<Option<Box<dyn PackedLinear>>> {
        if sets::current().is_none() {
            return Ok(None);
        }
        Ok(tile_linear::TiledWeights::<Int8>::new(weights, &bias_numbers(bias)?)?.map(boxed))
    }

    fn pack_conv(&self, weight: &Tensor, bias: &Tensor) -> Result<Option<Box<dyn PackedConv>>> {
        let (weight, bias, in_channels) = (wide(weight)?, wide(bias)?, weight.dim(1)?);
        let (Some(_), Some(weight), Some(bias)) = (sets::current(), F32::of(&weight), F32::of(&bias)) else {
            return Ok(None);
        };
        Ok(Some(Box::new(conv_operands::PanelConv::new(&weight, &bias, in_channels))))
    }
}
