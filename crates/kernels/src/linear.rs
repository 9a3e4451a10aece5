//! The affine map `y = x W^T + b`, packed once when a model is loaded.

use std::sync::Arc;

use candle_core::{D, DType, Result, Tensor, bail};

use crate::backend::PackedLinear;
use crate::devices::backend;
use crate::operands::Epilogue;
use crate::{Parameters, RowLayout};

/// The longest sum of eight-bit products that cannot overflow 32 bits.
const MAX_INT8_FEATURES: usize = 65_536;

/// An affine map of the last dimension.
///
/// The weight is laid out once for its device. In host memory it keeps its float type: a bf16 checkpoint stays half as
/// large as in f32, while the sums are f32. On processors with faster products for bf16 than for f32 (AMD's with
/// AVX512-BF16, and AMX), the input rows of a bf16 weight are rounded to bf16 too. Those of any other weight are not.
#[derive(Clone, Debug)]
pub struct Linear(LinearWeights);

#[derive(Clone, Debug)]
enum LinearWeights {
    /// `weight` is `[out, in]`.
    Plain {
        weight: Tensor,
        bias: Option<Tensor>,
    },
    Packed(Arc<dyn PackedLinear>),
}

impl Linear {
    /// Makes a map of an `[out, in]` weight of any float type and an `[out]` bias.
    ///
    /// # Errors
    /// A shape does not fit.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>) -> Result<Linear> {
        Linear::cat(&[(weight, bias)])
    }

    /// Fuses several maps of the same input into one, with their outputs side by side: q, k and v, or gate and up.
    ///
    /// # Errors
    /// A shape does not fit, or the weights are of different types.
    pub fn cat(parts: &[(&Tensor, Option<&Tensor>)]) -> Result<Linear> {
        check_parts(parts)?;
        let (weights, bias) = contiguous(parts)?;
        Ok(Linear(match backend(weights[0].device()).pack_linear(&weights, bias.as_ref())? {
            Some(packed) => LinearWeights::Packed(packed.into()),
            None => LinearWeights::Plain { weight: Tensor::cat(&weights, 0)?, bias },
        }))
    }

    /// Like [`Linear::cat`], with products of eight-bit integers. Each output's weights and each row of the input are
    /// scaled so that their largest magnitude is 127, and rounded. Sums are exact. Scales, bias and epilogue are f32. A
    /// weight takes one byte.
    ///
    /// A backend without such products computes the f32 product with the rounded weight.
    ///
    /// # Errors
    /// A shape does not fit, the weights are of different types, or an input is wider than 65,536.
    pub fn int8(parts: &[(&Tensor, Option<&Tensor>)]) -> Result<Linear> {
        check_parts(parts)?;
        let in_features = parts[0].0.dim(1)?;
        if in_features > MAX_INT8_FEATURES {
            bail!("weight must have at most {MAX_INT8_FEATURES} columns for eight-bit products. Given: {in_features}")
        }
        let (weights, bias) = contiguous(parts)?;
        Ok(Linear(match backend(weights[0].device()).pack_int8(&weights, bias.as_ref())? {
            Some(packed) => LinearWeights::Packed(packed.into()),
            None => LinearWeights::Plain { weight: rounded_to_int8(&Tensor::cat(&weights, 0)?)?, bias },
        }))
    }

    /// Wraps weights that a backend has packed.
    pub(crate) fn of_packed(packed: Box<dyn PackedLinear>) -> Linear {
        Linear(LinearWeights::Packed(packed.into()))
    }

    /// `[.., in]` to `[.., out]`.
    ///
    /// # Errors
    /// `x` has another last dimension.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.check(x)?;
        match self.packed(x, Epilogue::None)? {
            Some(product) => Ok(product),
            None => self.reference(x),
        }
    }

    /// `gelu(forward(x))`, with the tanh approximation of GELU.
    ///
    /// # Errors
    /// `x` has another last dimension.
    pub fn forward_gelu(&self, x: &Tensor) -> Result<Tensor> {
        self.check(x)?;
        match self.packed(x, Epilogue::Gelu)? {
            Some(activated) => Ok(activated),
            None => self.forward(x)?.gelu(),
        }
    }

    /// `residual + gate[row] * forward(x)`: the end of each half of a transformer block.
    ///
    /// `x` is `[tokens, in]`, `residual` is `[tokens, out]`. `gate` is `[num_rows, out]`, possibly a view of the
    /// modulation's output.
    ///
    /// # Errors
    /// A shape does not fit.
    pub fn forward_gated(&self, x: &Tensor, residual: &Tensor, gate: &Tensor, rows: &RowLayout) -> Result<Tensor> {
        self.check(x)?;
        rows.check("gate", residual, gate)?;
        let expected = [x.dim(0)?, self.out_features()];
        if residual.dims() != expected {
            bail!("residual must be {expected:?}. Given: {:?}", residual.dims())
        }
        match self.packed(x, Epilogue::Gated { residual, gate, rows })? {
            Some(sum) => Ok(sum),
            None => residual + (self.forward(x)? * rows.expand(&gate.to_dtype(x.dtype())?)?)?,
        }
    }

    /// The last dimension of the input.
    pub fn in_features(&self) -> usize {
        match &self.0 {
            LinearWeights::Plain { weight, .. } => weight.dims()[1],
            LinearWeights::Packed(packed) => packed.in_features(),
        }
    }

    /// The last dimension of the output.
    pub fn out_features(&self) -> usize {
        match &self.0 {
            LinearWeights::Plain { weight, .. } => weight.dims()[0],
            LinearWeights::Packed(packed) => packed.out_features(),
        }
    }

    fn check(&self, x: &Tensor) -> Result<()> {
        let features = x.dim(D::Minus1)?;
        if features != self.in_features() {
            bail!("x must have {} features. Given: {features}", self.in_features())
        }
        Ok(())
    }

    /// The backend's product; `None` if the reference has to compute it.
    fn packed(&self, x: &Tensor, epilogue: Epilogue<'_>) -> Result<Option<Tensor>> {
        match &self.0 {
            LinearWeights::Packed(packed) => packed.forward(x, epilogue),
            LinearWeights::Plain { .. } => Ok(None),
        }
    }

    /// The `[out, in]` weight, and the bias.
    pub(crate) fn unpack(&self) -> Result<(Tensor, Option<Tensor>)> {
        match &self.0 {
            LinearWeights::Plain { weight, bias } => Ok((weight.clone(), bias.clone())),
            LinearWeights::Packed(packed) => packed.unpack().map(|(weight, bias)| (weight, Some(bias))),
        }
    }

    fn reference(&self, x: &Tensor) -> Result<Tensor> {
        let (weight, bias) = self.unpack()?;
        let flat = x.reshape(((), self.in_features()))?;
        let product = flat.matmul(&weight.to_dtype(x.dtype())?.t()?)?;
        let product = match &bias {
            Some(bias) => product.broadcast_add(&bias.to_dtype(x.dtype())?)?,
            None => product,
        };
        product.reshape(out_shape(x, self.out_features()))
    }
}

impl Parameters for Linear {
    fn visit<'p>(&'p self, visit: &mut dyn FnMut(&'p Tensor)) {
        match &self.0 {
            LinearWeights::Plain { weight, bias } => std::iter::once(weight).chain(bias).for_each(visit),
            LinearWeights::Packed(packed) => packed.tensors().into_iter().for_each(visit),
        }
    }
}

/// The weights, and their biases side by side if there are any.
pub(crate) fn contiguous(parts: &[(&Tensor, Option<&Tensor>)]) -> Result<(Vec<Tensor>, Option<Tensor>)> {
    let weights = parts.iter().map(|(weight, _)| weight.contiguous()).collect::<Result<_>>()?;
    let bias = parts.iter().any(|(_, bias)| bias.is_some()).then(|| cat_bias(parts)).transpose()?;
    Ok((weights, bias))
}

/// Rounds each output's weights to multiples of 1/127 of their largest magnitude.
fn rounded_to_int8(weight: &Tensor) -> Result<Tensor> {
    let wide = weight.to_dtype(DType::F32)?;
    // For a row of zeros any scale is right.
    let scale = (wide.abs()?.max_keepdim(1)?.maximum(1e-30)? / 127.0)?;
    wide.broadcast_div(&scale)?.round()?.broadcast_mul(&scale)?.to_dtype(weight.dtype())
}

pub(crate) fn check_parts(parts: &[(&Tensor, Option<&Tensor>)]) -> Result<()> {
    let Some((first, _)) = parts.first() else { bail!("parts must not be empty") };
    let (_, in_features) = first.dims2()?;
    for (weight, bias) in parts {
        let (out_features, given) = weight.dims2()?;
        if given != in_features || given == 0 {
            bail!("weight must be [{out_features}, {in_features}], not empty. Given: {:?}", weight.dims())
        }
        if weight.dtype() != first.dtype() {
            bail!("weights must all be {:?}. Given: {:?}", first.dtype(), weight.dtype())
        }
        if let Some(bias) = bias.filter(|bias| bias.dims() != [out_features]) {
            bail!("bias must be [{out_features}]. Given: {:?}", bias.dims())
        }
    }
    Ok(())
}

/// The biases side by side, with zeros for a part that has none.
fn cat_bias(parts: &[(&Tensor, Option<&Tensor>)]) -> Result<Tensor> {
    let biases = parts.iter().map(|(weight, bias)| match bias {
        Some(bias) => bias.to_dtype(weight.dtype()),
        None => Tensor::zeros(weight.dim(0)?, weight.dtype(), weight.device()),
    });
    Tensor::cat(&biases.collect::<Result<Vec<_>>>()?, 0)
}

/// The shape of `x` with another last dimension.
fn out_shape(x: &Tensor, features: usize) -> Vec<usize> {
    let mut shape = x.dims().to_vec();
    shape.pop();
    shape.push(features);
    shape
}

#[cfg(test)]
mod tests;
