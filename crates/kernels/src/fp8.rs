//! Emulated products of eight-bit floats: the reference for devices that have such products, and a measure of their
//! accuracy on machines without one.

use candle_core::{CpuStorage, DType, Device, Result, Storage, Tensor};
use rayon::prelude::*;

use crate::Linear;
use crate::backend::PackedLinear;
use crate::devices::backend;
use crate::e4m3::round_row;
use crate::linear::{check_parts, contiguous};
use crate::operands::Epilogue;

impl Linear {
    /// Like [`Linear::cat`], with products of eight-bit floats (e4m3). Each output's weights and each row of the input
    /// are scaled so that their largest magnitude is 448, and rounded. Sums, scales, bias and epilogue are f32. A
    /// weight takes one byte.
    ///
    /// In host memory such products are emulated, slowly and in twice the memory. A device without such products, or
    /// without them for these sizes, keeps the weights as they are. cuBLASLt needs multiples of 16.
    ///
    /// # Errors
    /// A shape does not fit, or the weights are of different types.
    pub fn fp8(parts: &[(&Tensor, Option<&Tensor>)]) -> Result<Linear> {
        check_parts(parts)?;
        let (weights, bias) = contiguous(parts)?;
        if let Some(packed) = backend(weights[0].device()).pack_fp8(&weights, bias.as_ref())? {
            return Ok(Linear::of_packed(packed));
        }
        match Emulated::new(&weights, bias.as_ref())? {
            Some(emulated) => Ok(Linear::of_packed(Box::new(emulated))),
            None => Linear::cat(parts),
        }
    }
}

/// A linear map with weights and input rows rounded to e4m3. Each output and each row has its own scale, set by its
/// largest magnitude. Sums, scales and bias are f32.
#[derive(Clone, Debug)]
pub(crate) struct Emulated {
    /// The rounded weights without their scales, in bf16, which holds them exactly.
    numbers: Linear,
    /// `[out]`
    scales: Tensor,
    /// `[out]` in f32.
    bias: Option<Tensor>,
}

impl Emulated {
    /// Rounds `[out, in]` weights, stacked one below the other, with an `[out]` bias. `None` if they are not in host
    /// memory.
    pub(crate) fn new(weights: &[Tensor], bias: Option<&Tensor>) -> Result<Option<Self>> {
        if !weights.iter().all(|weight| weight.device().is_cpu()) {
            return Ok(None);
        }
        let rounded =
            weights.iter().map(|weight| rounded(&weight.to_dtype(DType::F32)?)).collect::<Result<Vec<_>>>()?;
        let Some(rounded) = rounded.into_iter().collect::<Option<Vec<_>>>() else { return Ok(None) };
        let numbers = rounded.iter().map(|(numbers, _)| numbers.to_dtype(DType::BF16)).collect::<Result<Vec<_>>>()?;
        let parts: Vec<_> = numbers.iter().map(|numbers| (numbers, None)).collect();
        let scales: Vec<_> = rounded.iter().map(|(_, scales)| scales).collect();
        let bias = bias.map(|bias| bias.to_dtype(DType::F32)).transpose()?;
        Ok(Some(Emulated { numbers: Linear::cat(&parts)?, scales: Tensor::cat(&scales, 0)?, bias }))
    }
}

impl PackedLinear for Emulated {
    fn in_features(&self) -> usize {
        self.numbers.in_features()
    }

    fn out_features(&self) -> usize {
        self.numbers.out_features()
    }

    fn unpack(&self) -> Result<(Tensor, Tensor)> {
        let (numbers, _) = self.numbers.unpack()?;
        let weight = numbers.to_dtype(DType::F32)?.broadcast_mul(&self.scales.unsqueeze(1)?)?;
        let bias = self.bias.clone().map_or_else(|| self.scales.zeros_like(), Ok)?;
        Ok((weight, bias))
    }

    fn tensors(&self) -> Vec<&Tensor> {
        // The tensors lie in host memory, where nothing is streamed.
        Vec::new()
    }

    fn forward(&self, x: &Tensor, epilogue: Epilogue<'_>) -> Result<Option<Tensor>> {
        let Epilogue::None = epilogue else { return Ok(None) };
        let rows = x.reshape(((), self.in_features()))?.to_dtype(DType::F32)?;
        let Some((numbers, scales)) = rounded(&rows)? else { candle_core::bail!("x must lie in host memory") };
        let sums = self.numbers.forward(&numbers)?;
        let product = sums.broadcast_mul(&scales.unsqueeze(1)?)?.broadcast_mul(&self.scales)?;
        let product = match &self.bias {
            Some(bias) => product.broadcast_add(bias)?,
            None => product,
        };
        let mut shape = x.dims().to_vec();
        shape.pop();
        shape.push(self.out_features());
        product.to_dtype(x.dtype())?.reshape(shape).map(Some)
    }
}

/// Scales each row of an f32 matrix to a largest magnitude of 448 and rounds it to e4m3. Returns the rounded numbers
/// and the `[rows]` scales, or `None` if the matrix is not in host memory.
fn rounded(matrix: &Tensor) -> Result<Option<(Tensor, Tensor)>> {
    let (rows, dim) = matrix.dims2()?;
    let matrix = matrix.contiguous()?;
    let (storage, layout) = matrix.storage_and_layout();
    let (Storage::Cpu(CpuStorage::F32(numbers)), Some((start, end))) = (&*storage, layout.contiguous_offsets()) else {
        return Ok(None);
    };
    let mut rounded = numbers[start..end].to_vec();
    let scales: Vec<f32> = rounded.par_chunks_mut(dim.max(1)).map(round_row).collect();
    Ok(Some((Tensor::from_vec(rounded, (rows, dim), &Device::Cpu)?, Tensor::from_vec(scales, rows, &Device::Cpu)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, numbers, on_each_set, randn};
    use crate::{RowLayout, with_reference};

    fn linear(n: usize, k: usize) -> (Linear, [Tensor; 2]) {
        let (weight, bias) = ((randn(1, (n, k)) * 0.1).unwrap(), randn(2, n));
        (Linear::fp8(&[(&weight, Some(&bias))]).unwrap(), [weight, bias])
    }

    #[test]
    fn products_are_those_of_rounded_numbers() {
        on_each_set(|_| {
            for (tokens, k, n) in [(1, 16, 16), (7, 33, 5), (40, 200, 48)] {
                let (linear, [weight, bias]) = linear(n, k);
                let x = randn(3, (tokens, k));
                let wide = |t: &Tensor| -> Vec<Vec<f64>> {
                    let rows: Vec<Vec<f32>> = t.to_vec2().unwrap();
                    let row = |mut row: Vec<f32>| {
                        let scale = f64::from(round_row(&mut row));
                        row.into_iter().map(|x| f64::from(x) * scale).collect()
                    };
                    rows.into_iter().map(row).collect()
                };
                let (rows, outputs, bias) = (wide(&x), wide(&weight), numbers(&bias));
                let product = |x: &Vec<f64>| {
                    let dot = |w: &Vec<f64>| x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>();
                    outputs.iter().zip(&bias).map(|(w, bias)| (dot(w) + f64::from(*bias)) as f32).collect::<Vec<_>>()
                };
                let expected = Tensor::new(rows.iter().map(product).collect::<Vec<_>>(), &Device::Cpu).unwrap();
                assert_close(&format!("{tokens}x{k}x{n}"), &linear.forward(&x).unwrap(), &expected, 2e-6);
                let plain = with_reference(|| linear.forward(&x)).unwrap();
                assert_close(&format!("{tokens}x{k}x{n}, candle"), &plain, &expected, 2e-6);
            }
        });
    }

    /// The root mean square error, relative to the exact product.
    #[test]
    fn accuracy_is_that_of_the_format() {
        let (linear, [weight, bias]) = linear(64, 1024);
        let x = randn(3, (64, 1024));
        let exact = Linear::new(&weight, None).unwrap().forward(&x).unwrap();
        let given = linear.forward(&x).unwrap().broadcast_sub(&bias).unwrap();
        let square = |t: Tensor| t.sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap();
        let error = (square((given - &exact).unwrap()) / square(exact)).sqrt();
        println!("relative rms error: fp8 {error:.1e}");
        assert!((2e-2..6e-2).contains(&error), "{error:e}");
    }

    #[test]
    fn gelu_gates_and_parts_are_those_of_any_map() {
        let (linear, [weight, bias]) = linear(48, 64);
        let (x, residual, gate) = (randn(3, (9, 64)), randn(4, (9, 48)), randn(5, (2, 48)));
        let plain = linear.forward(&x).unwrap();
        assert_eq!((linear.in_features(), linear.out_features()), (64, 48));
        assert_close("gelu", &linear.forward_gelu(&x).unwrap(), &plain.gelu().unwrap(), 1e-6);
        let rows = RowLayout::new(&[4, 5]);
        let expected = (&residual + (&plain * rows.expand(&gate).unwrap()).unwrap()).unwrap();
        assert_close("gated", &linear.forward_gated(&x, &residual, &gate, &rows).unwrap(), &expected, 1e-6);
        let parts = [(0, 20), (20, 28)].map(|(from, len)| [&weight, &bias].map(|t| t.narrow(0, from, len).unwrap()));
        let parts = parts.each_ref().map(|[weight, bias]| (weight, Some(bias)));
        assert_eq!(numbers(&Linear::fp8(&parts).unwrap().forward(&x).unwrap()), numbers(&plain));
        let half = linear.forward(&x.to_dtype(DType::BF16).unwrap()).unwrap();
        assert_eq!(half.dtype(), DType::BF16);
    }

    #[test]
    fn what_is_no_number_stays_in_its_row() {
        let (linear, _) = linear(16, 32);
        let mut x = numbers(&randn(3, (3, 32)));
        x[40] = f32::INFINITY;
        let out = numbers(&linear.forward(&Tensor::from_vec(x, (3, 32), &Device::Cpu).unwrap()).unwrap());
        let nans: Vec<_> = out.chunks(16).map(|row| row.iter().filter(|x| x.is_nan()).count()).collect();
        assert_eq!(nans, [0, 16, 0]);
    }
}
