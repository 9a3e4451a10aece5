//! Linear maps: a product with its bias and GELU by cuBLASLt, then gate and residual by `cuda/elementwise.cu`.

use candle_core::{Result, Tensor};

use super::gpu::{Address, Kernel, gpu, is_served};
use super::layout::{RowVectors, WIDTH, dense};
use super::lt::{Operands, Product};
use super::norm::row_grid;
use crate::RowLayout;
use crate::backend::PackedLinear;
use crate::operands::Epilogue;

const GATED_RESIDUAL: Kernel = Kernel { module: "elementwise", name: "gated_residual" };

/// A weight as it is, since the library takes it so.
#[derive(Debug)]
pub(super) struct Packed {
    /// `[out, in]`
    weight: Tensor,
    /// `[out]`, of the weight's type.
    bias: Option<Tensor>,
}

impl Packed {
    /// `None` for float types that are not served.
    pub(super) fn new(weights: &[Tensor], bias: Option<&Tensor>) -> Result<Option<Self>> {
        let weight = if let [weight] = weights { dense(weight)? } else { Tensor::cat(weights, 0)? };
        if !is_served(weight.dtype()) {
            return Ok(None);
        }
        let bias = bias.map(|bias| dense(&bias.to_dtype(weight.dtype())?)).transpose()?;
        Ok(Some(Packed { weight, bias }))
    }

    fn product(&self, x: &Tensor, gelu: bool) -> Result<Option<Tensor>> {
        let (gpu, x, (n, k)) = (gpu(x)?, dense(x)?, self.weight.dims2()?);
        let mut shape = x.dims().to_vec();
        shape.pop();
        shape.push(n);
        let (out, m) = (gpu.output(shape, x.dtype())?, x.elem_count() / k);
        if m == 0 || n == 0 {
            return Ok(Some(out));
        }
        let bias = self.bias.as_ref().map(Address::of).transpose()?;
        let operands =
            Operands { x: Address::of(&x)?, weight: Address::of(&self.weight)?, bias, out: Address::of(&out)? };
        let product = Product { m, n, k, dtype: x.dtype(), bias: bias.is_some(), gelu };
        Ok(gpu.lt()?.multiply(product, &operands)?.then_some(out))
    }
}

impl PackedLinear for Packed {
    fn in_features(&self) -> usize {
        self.weight.dims()[1]
    }

    fn out_features(&self) -> usize {
        self.weight.dims()[0]
    }

    fn unpack(&self) -> Result<(Tensor, Tensor)> {
        let bias = match &self.bias {
            Some(bias) => bias.clone(),
            None => Tensor::zeros(self.out_features(), self.weight.dtype(), self.weight.device())?,
        };
        Ok((self.weight.clone(), bias))
    }

    fn forward(&self, x: &Tensor, epilogue: Epilogue<'_>) -> Result<Option<Tensor>> {
        if crate::cpu::sets::is_reference_forced() || x.dtype() != self.weight.dtype() {
            return Ok(None);
        }
        match epilogue {
            Epilogue::None => self.product(x, false),
            Epilogue::Gelu => self.product(x, true),
            Epilogue::Gated { residual, gate, rows } => {
                if !self.out_features().is_multiple_of(WIDTH) || residual.dtype() != x.dtype() {
                    return Ok(None);
                }
                let Some(product) = self.product(x, false)? else { return Ok(None) };
                gated_residual(&product, residual, gate, rows).map(Some)
            }
        }
    }
}

/// `residual + gate[row] * x`
fn gated_residual(x: &Tensor, residual: &Tensor, gate: &Tensor, rows: &RowLayout) -> Result<Tensor> {
    let (gpu, dtype, (tokens, dim)) = (gpu(x)?, x.dtype(), x.dims2()?);
    let (residual, gate) = (dense(residual)?, RowVectors::of(gate, dtype)?);
    let out = gpu.output(x.shape(), dtype)?;
    if tokens == 0 || dim == 0 {
        return Ok(out);
    }
    let offsets = rows.offsets_on(x.device())?;
    gpu.launch(
        GATED_RESIDUAL,
        dtype,
        row_grid(tokens, dim),
        &[
            &Address::of(x)?,
            &Address::of(&residual)?,
            &Address::of(&gate.tensor)?,
            &Address::of(&offsets)?,
            &Address::of(&out)?,
            &(tokens as i32),
            &(rows.num_rows() as i32),
            &(dim as i32),
            &gate.stride,
        ],
    )?;
    Ok(out)
}
