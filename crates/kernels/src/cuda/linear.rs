//! Linear maps: a product with bias and GELU by cuBLASLt, then gate and residual by `cuda/elementwise.cu`.

use candle_core::{Result, Tensor};

use super::argument::Address;
use super::gpu::{Kernel, gpu, is_served};
use super::layout::{RowVectors, WIDTH, dense};
use super::lt::{Numbers, Operands, Product};
use super::norm::row_grid;
use crate::RowLayout;
use crate::backend::PackedLinear;
use crate::operands::Epilogue;

const GATED_RESIDUAL: Kernel = Kernel { module: "elementwise", name: "gated_residual" };

/// An unchanged weight, which is what cuBLASLt reads.
#[derive(Debug)]
pub(super) struct DeviceLinear {
    /// `[out, in]`
    weight: Tensor,
    /// `[out]`, of the weight's type.
    bias: Option<Tensor>,
}

impl DeviceLinear {
    /// `None` for unsupported float types.
    pub(super) fn new(weights: &[Tensor], bias: Option<&Tensor>) -> Result<Option<Self>> {
        let weight = if let [weight] = weights { dense(weight)? } else { Tensor::cat(weights, 0)? };
        if !is_served(weight.dtype()) {
            return Ok(None);
        }
        let bias = bias.map(|bias| dense(&bias.to_dtype(weight.dtype())?)).transpose()?;
        Ok(Some(DeviceLinear { weight, bias }))
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
        let (x, weight, out_place) = (Address::of(&x)?, Address::of(&self.weight)?, Address::of(&out)?);
        let operands = Operands { x, weight, bias, scales: None, out: out_place };
        let product = Product { m, n, k, numbers: Numbers { operands: out.dtype(), out: out.dtype() }, gelu };
        Ok(gpu.lt()?.multiply(product, &operands)?.then_some(out))
    }
}

impl PackedLinear for DeviceLinear {
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

    fn tensors(&self) -> Vec<&Tensor> {
        std::iter::once(&self.weight).chain(&self.bias).collect()
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
pub(super) fn gated_residual(x: &Tensor, residual: &Tensor, gate: &Tensor, rows: &RowLayout) -> Result<Tensor> {
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

#[cfg(test)]
mod tests {
    use super::super::tests::{check, rows_of};
    use super::*;
    use crate::testing::randn;
    use crate::{Linear, LinearStack};

    #[test]
    fn stacked_maps_agree() {
        let (rows, k, n) = (3, 40, 16);
        let given: Vec<_> =
            (0..3).flat_map(|i| [randn(2 * i, (n, k)), randn(2 * i + 1, n)]).chain([randn(9, (rows, k))]).collect();
        let products = |t: &[Tensor]| {
            let mut stack = LinearStack::with_capacity(3);
            t[..6].chunks(2).for_each(|map| stack.push(&map[0], Some(&map[1])).unwrap());
            Tensor::cat(&stack.forward(&t[6], 1..3)?.collect::<Result<Vec<_>>>()?, 0)
        };
        check("stacked maps", &given, |t| products(t).map(Some), products);
    }

    /// Every product of a map with and without a bias.
    #[test]
    fn linear_maps_agree() {
        for (tokens, k, n) in [(1, 8, 16), (2, 192, 64), (7, 40, 8), (13, 160, 480), (5, 16, 3)] {
            for with_bias in [true, false] {
                let weight = (randn(1, (n, k)) * 0.1).unwrap();
                let given = [randn(3, (tokens, k)), weight, randn(2, n), randn(4, (tokens, n)), randn(5, (3, 2 * n))];
                let rows = rows_of(tokens);
                let bias = |t: &[Tensor]| with_bias.then(|| t[2].clone());
                let packed = |t: &[Tensor]| DeviceLinear::new(&t[1..2], bias(t).as_ref()).unwrap().unwrap();
                let plain = |t: &[Tensor]| Linear::new(&t[1], bias(t).as_ref()).unwrap();
                let gate = |t: &[Tensor]| t[4].narrow(1, n, n).unwrap();
                let name = |op| format!("{op} {tokens}x{k}x{n}, bias {with_bias}");
                check(
                    &name("product"),
                    &given,
                    |t| packed(t).forward(&t[0], Epilogue::None),
                    |t| plain(t).forward(&t[0]),
                );
                check(
                    &name("gelu"),
                    &given,
                    |t| packed(t).forward(&t[0], Epilogue::Gelu),
                    |t| plain(t).forward_gelu(&t[0]),
                );
                if !n.is_multiple_of(8) {
                    continue;
                }
                check(
                    &name("gated"),
                    &given,
                    |t| packed(t).forward(&t[0], Epilogue::Gated { residual: &t[3], gate: &gate(t), rows: &rows }),
                    |t| plain(t).forward_gated(&t[0], &t[3], &gate(t), &rows),
                );
            }
        }
    }

    #[test]
    fn parts_of_a_linear_map_lie_side_by_side() {
        let parts = [randn(1, (24, 16)), randn(2, (8, 16)), randn(3, (5, 16))];
        check(
            "cat",
            &parts,
            |t| DeviceLinear::new(&t[..2], None).unwrap().unwrap().forward(&t[2], Epilogue::None),
            |t| Linear::cat(&[(&t[0], None), (&t[1], None)])?.forward(&t[2]),
        );
    }
}
