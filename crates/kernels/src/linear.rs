//! The affine map `y = x W^T + b`, packed once when a model is loaded.

use candle_core::{D, Result, Tensor, bail};

use crate::RowLayout;

/// An affine map of the last dimension.
#[derive(Clone, Debug)]
pub struct Linear {
    /// `[out, in]`
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// From an `[out, in]` weight of any float type and an `[out]` bias.
    ///
    /// # Errors
    /// A shape does not fit.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>) -> Result<Linear> {
        Linear::cat(&[(weight, bias)])
    }

    /// Several maps of the same input as one, their outputs side by side: q, k and v, or gate
    /// and up.
    ///
    /// # Errors
    /// A shape does not fit, or the weights are of different types.
    pub fn cat(parts: &[(&Tensor, Option<&Tensor>)]) -> Result<Linear> {
        let Some((first, _)) = parts.first() else { bail!("parts must not be empty") };
        let (_, in_features) = first.dims2()?;
        for (weight, bias) in parts {
            let (out_features, given) = weight.dims2()?;
            if given != in_features {
                bail!("weight must be [{out_features}, {in_features}]. Given: {:?}", weight.dims())
            }
            if weight.dtype() != first.dtype() {
                bail!("weights must all be {:?}. Given: {:?}", first.dtype(), weight.dtype())
            }
            if let Some(bias) = bias.filter(|bias| bias.dims() != [out_features]) {
                bail!("bias must be [{out_features}]. Given: {:?}", bias.dims())
            }
        }
        let weights: Vec<_> = parts.iter().map(|(weight, _)| weight).collect();
        let bias = parts.iter().any(|(_, bias)| bias.is_some()).then(|| cat_bias(parts)).transpose()?;
        Ok(Linear { weight: Tensor::cat(&weights, 0)?.contiguous()?, bias })
    }

    /// `[.., in]` to `[.., out]`.
    ///
    /// # Errors
    /// `x` has another last dimension.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.check(x)?;
        self.reference(x)
    }

    /// The tanh approximation of GELU of `forward`.
    ///
    /// # Errors
    /// `x` has another last dimension.
    pub fn forward_gelu(&self, x: &Tensor) -> Result<Tensor> {
        self.check(x)?;
        self.reference(x)?.gelu()
    }

    /// `residual + gate[row] * forward(x)`: what closes each half of a transformer block.
    ///
    /// `x` is `[tokens, in]`, `residual` is `[tokens, out]`, `gate` is `[num_rows, out]`,
    /// perhaps a view of what the modulation made.
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
        residual + (self.reference(x)? * rows.expand(&gate.to_dtype(x.dtype())?)?)?
    }

    /// The last dimension of its input.
    pub fn in_features(&self) -> usize {
        self.weight.dims()[1]
    }

    /// The last dimension of its output.
    pub fn out_features(&self) -> usize {
        self.weight.dims()[0]
    }

    fn check(&self, x: &Tensor) -> Result<()> {
        let features = x.dim(D::Minus1)?;
        if features != self.in_features() {
            bail!("x must have {} features. Given: {features}", self.in_features())
        }
        Ok(())
    }

    fn reference(&self, x: &Tensor) -> Result<Tensor> {
        let mut shape = x.dims().to_vec();
        let last = shape.len() - 1;
        shape[last] = self.out_features();
        let x = x.reshape(((), self.in_features()))?;
        let product = x.matmul(&self.weight.to_dtype(x.dtype())?.t()?)?;
        let product = match &self.bias {
            Some(bias) => product.broadcast_add(&bias.to_dtype(x.dtype())?)?,
            None => product,
        };
        product.reshape(shape)
    }
}

/// The biases side by side, zeros where a part has none.
fn cat_bias(parts: &[(&Tensor, Option<&Tensor>)]) -> Result<Tensor> {
    let biases = parts.iter().map(|(weight, bias)| match bias {
        Some(bias) => bias.to_dtype(weight.dtype()),
        None => Tensor::zeros(weight.dim(0)?, weight.dtype(), weight.device()),
    });
    Tensor::cat(&biases.collect::<Result<Vec<_>>>()?, 0)
}
