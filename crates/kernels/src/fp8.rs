//! Products in eight-bit floats, emulated: what a device that has them is compared with, and what their accuracy is
//! measured by where there is none.
//!
//! The numbers are e4m3 of <https://arxiv.org/abs/2209.05433>: four bits of exponent, three of mantissa, up to 448.

use candle_core::{CpuStorage, DType, Device, Result, Storage, Tensor};
use rayon::prelude::*;

use crate::Linear;

/// The largest number.
pub(crate) const LARGEST: f32 = 448.0;

/// A linear map of which weights and rows are rounded to e4m3, each output's and each row's relative to its largest
/// magnitude. Sums, scales and bias are f32.
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
    /// From `[out, in]` weights, one below the other, and an `[out]` bias. `None` if they are not in host memory.
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

    pub(crate) fn in_features(&self) -> usize {
        self.numbers.in_features()
    }

    pub(crate) fn out_features(&self) -> usize {
        self.numbers.out_features()
    }

    /// `[.., in]` to `[.., out]`, in the type of `x`, which is in host memory as the weight is.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
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
        product.to_dtype(x.dtype())?.reshape(shape)
    }
}

/// The nearest e4m3 numbers of an f32 matrix whose rows are scaled so that their largest magnitude is 448, and the
/// `[rows]` scales that they are multiples of. `None` if it is not in host memory.
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

/// Replaces numbers by e4m3 ones, and returns what to multiply those by: not a number where one of `row` is none or
/// infinite, so that its sums tell of it.
fn round_row(row: &mut [f32]) -> f32 {
    // Magnitudes order as their bits do, with what is no number on top.
    let largest = row.iter().fold(0, |largest: u32, x| largest.max(x.to_bits() & !(1 << 31)));
    let largest = f32::from_bits(largest);
    let (scale, factor) = if !largest.is_finite() {
        (f32::NAN, 0.0)
    } else if largest < 1e-30 {
        // Its inverse may be infinite.
        (0.0, 0.0)
    } else {
        (largest / LARGEST, LARGEST / largest)
    };
    row.iter_mut().for_each(|x| *x = nearest(*x * factor));
    scale
}

/// The nearest e4m3 number, ties to even, of one of a magnitude of about 448 at most; 0 of what is no number.
#[inline(always)]
fn nearest(x: f32) -> f32 {
    /// Bits of a mantissa of f32 that one of e4m3 lacks.
    const LACKING: u32 = 20;
    /// The smallest normal number, below which numbers are multiples of an eighth of it.
    const SMALLEST: f32 = 1.0 / 64.0;
    /// Numbers of this size are whole multiples of that eighth.
    const MAGIC: f32 = 12_582_912.0 * SMALLEST / 8.0;
    let bits = x.to_bits();
    let normal = bits.wrapping_add((1 << (LACKING - 1)) - 1 + (bits >> LACKING & 1)) & !((1 << LACKING) - 1);
    let normal = f32::from_bits(normal).clamp(-LARGEST, LARGEST);
    let rounded = if x.abs() < SMALLEST { x + MAGIC - MAGIC } else { normal };
    if x.is_nan() { 0.0 } else { rounded }
}

/// The number of a byte.
#[cfg(any(test, feature = "cuda"))]
pub(crate) fn decoded(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    let magnitude = match exponent {
        0 => mantissa / 8.0 * 2f32.powi(-6),
        15 if byte & 7 == 7 => f32::NAN,
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    };
    if byte >> 7 == 1 { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::testing::{assert_close, numbers, on_each_set, randn};
    use crate::{RowLayout, with_reference};

    /// All finite numbers, in order.
    fn all() -> Vec<f32> {
        let mut all: Vec<f32> = (0..=255).map(decoded).filter(|x| x.is_finite()).collect();
        all.sort_by(f32::total_cmp);
        all
    }

    #[test]
    fn numbers_are_those_of_the_format() {
        let all = all();
        assert_eq!((all.len(), all[253], decoded(1), decoded(8)), (254, 448.0, 2f32.powi(-9), 2f32.powi(-6)));
        assert!(all.iter().all(|x| bf16::from_f32(*x).to_f32() == *x && nearest(*x) == *x));
    }

    /// Between neighbours the nearer is taken, halfway the one whose last bit is 0.
    #[test]
    fn rounding_is_to_the_nearest() {
        let mut positive: Vec<f32> = (0..0x7f).map(decoded).collect();
        positive.sort_by(f32::total_cmp);
        for (even, pair) in positive.windows(2).enumerate() {
            let (low, high) = (pair[0], pair[1]);
            let middle = (low + high) / 2.0;
            let below = f32::from_bits(middle.to_bits() - 1);
            let above = f32::from_bits(middle.to_bits() + 1);
            let tie = if even % 2 == 0 { low } else { high };
            assert_eq!((nearest(below), nearest(middle), nearest(above)), (low, tie, high), "{low} {high}");
            assert_eq!((nearest(-below), nearest(-middle), nearest(-above)), (-low, -tie, -high), "{low} {high}");
        }
        assert_eq!((nearest(449.0), nearest(-470.0), nearest(f32::NAN)), (448.0, -448.0, 0.0));
    }

    #[test]
    fn a_row_is_scaled_by_its_largest_number() {
        let mut row = [0.5, -2.0, 0.0, 1e-9];
        assert_eq!((round_row(&mut row), row), (2.0 / 448.0, [112.0, -448.0, 0.0, 0.0]));
        assert_eq!(round_row(&mut [0.0, -1e-40]), 0.0);
        for x in [f32::NAN, f32::INFINITY] {
            assert!(round_row(&mut [1.0, x]).is_nan());
        }
    }

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

    /// Root mean square of the error, relative to the exact product.
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
