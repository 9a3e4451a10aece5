//! The affine map `y = x W^T + b`, packed once when a model is loaded.

use std::sync::Arc;

use candle_core::{D, DType, Result, Tensor, bail};

use crate::backend::PackedLinear;
use crate::devices::backend;
use crate::operands::Epilogue;
use crate::{Parameters, RowLayout};

/// Longest sum of an eight-bit product that 32 bits hold whatever the numbers are.
const MAX_INT8_FEATURES: usize = 65_536;

/// An affine map of the last dimension.
///
/// Its weight is laid out once for the device it lies on. In host memory it keeps its float type, so that a
/// bf16 checkpoint stays half as large while the sums are f32. Where products of bf16 are faster
/// than those of f32 (AMD's processors with AVX512-BF16, and AMX), the rows that meet a bf16 weight
/// are rounded to bf16 too; those that meet any other are not.
#[derive(Clone, Debug)]
pub struct Linear(Weights);

#[derive(Clone, Debug)]
enum Weights {
    /// `weight` is `[out, in]`.
    Plain {
        weight: Tensor,
        bias: Option<Tensor>,
    },
    Packed(Arc<dyn PackedLinear>),
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
        check_parts(parts)?;
        let (weights, bias) = contiguous(parts)?;
        Ok(Linear(match backend(weights[0].device()).pack_linear(&weights, bias.as_ref())? {
            Some(packed) => Weights::Packed(packed.into()),
            None => Weights::Plain { weight: Tensor::cat(&weights, 0)?, bias },
        }))
    }

    /// As [`Linear::cat`], in products of eight-bit integers: each output's weights and each row of the input are
    /// scaled so that their largest magnitude is 127, and rounded. Sums are exact; scales, bias and what follows are
    /// f32. A weight takes one byte.
    ///
    /// Where there are no such products it is the f32 product with the rounded weight.
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
            Some(packed) => Weights::Packed(packed.into()),
            None => Weights::Plain { weight: rounded_to_int8(&Tensor::cat(&weights, 0)?)?, bias },
        }))
    }

    /// A map that something else multiplies.
    pub(crate) fn of_packed(packed: Box<dyn PackedLinear>) -> Linear {
        Linear(Weights::Packed(packed.into()))
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

    /// The tanh approximation of GELU of `forward`.
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
        match self.packed(x, Epilogue::Gated { residual, gate, rows })? {
            Some(sum) => Ok(sum),
            None => residual + (self.forward(x)? * rows.expand(&gate.to_dtype(x.dtype())?)?)?,
        }
    }

    /// The last dimension of its input.
    pub fn in_features(&self) -> usize {
        match &self.0 {
            Weights::Plain { weight, .. } => weight.dims()[1],
            Weights::Packed(packed) => packed.in_features(),
        }
    }

    /// The last dimension of its output.
    pub fn out_features(&self) -> usize {
        match &self.0 {
            Weights::Plain { weight, .. } => weight.dims()[0],
            Weights::Packed(packed) => packed.out_features(),
        }
    }

    fn check(&self, x: &Tensor) -> Result<()> {
        let features = x.dim(D::Minus1)?;
        if features != self.in_features() {
            bail!("x must have {} features. Given: {features}", self.in_features())
        }
        Ok(())
    }

    /// The product by the backend, `None` where the reference is to be taken.
    fn packed(&self, x: &Tensor, epilogue: Epilogue<'_>) -> Result<Option<Tensor>> {
        match &self.0 {
            Weights::Packed(packed) => packed.forward(x, epilogue),
            Weights::Plain { .. } => Ok(None),
        }
    }

    /// The `[out, in]` weight, and the bias.
    pub(crate) fn unpack(&self) -> Result<(Tensor, Option<Tensor>)> {
        match &self.0 {
            Weights::Plain { weight, bias } => Ok((weight.clone(), bias.clone())),
            Weights::Packed(packed) => packed.unpack().map(|(weight, bias)| (weight, Some(bias))),
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
            Weights::Plain { weight, bias } => std::iter::once(weight).chain(bias).for_each(visit),
            Weights::Packed(packed) => packed.tensors().into_iter().for_each(visit),
        }
    }
}

/// The weights, and their biases side by side if there are any.
pub(crate) fn contiguous(parts: &[(&Tensor, Option<&Tensor>)]) -> Result<(Vec<Tensor>, Option<Tensor>)> {
    let weights = parts.iter().map(|(weight, _)| weight.contiguous()).collect::<Result<_>>()?;
    let bias = parts.iter().any(|(_, bias)| bias.is_some()).then(|| cat_bias(parts)).transpose()?;
    Ok((weights, bias))
}

/// The weight with each output's numbers as multiples of 1/127 of the largest.
fn rounded_to_int8(weight: &Tensor) -> Result<Tensor> {
    let wide = weight.to_dtype(DType::F32)?;
    // Of a row of zeros any scale is right.
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

/// The biases side by side, zeros where a part has none.
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
mod tests {
    use super::*;
    use crate::testing::{assert_close, numbers, on_each_set, randn};
    use crate::with_reference;

    /// Shapes with odd ends: tokens not of 6, outputs not of 16, sums of several blocks.
    const SHAPES: [(usize, usize, usize); 9] = [
        (1, 8, 16),
        (1, 1000, 48),
        (2, 192, 1152),
        (7, 33, 5),
        (82, 160, 480),
        (101, 700, 100),
        (64, 1100, 3),
        (130, 641, 96),
        (300, 650, 35),
    ];

    fn linears(dtype: DType, n: usize, k: usize) -> (Linear, Linear) {
        let weight = (randn(1, (n, k)) * 0.1).unwrap().to_dtype(dtype).unwrap();
        let bias = randn(2, n).to_dtype(dtype).unwrap();
        let new = || Linear::new(&weight, Some(&bias)).unwrap();
        (new(), with_reference(new))
    }

    fn int8(n: usize, k: usize) -> (Linear, Linear) {
        let (weight, bias) = ((randn(1, (n, k)) * 0.1).unwrap(), randn(2, n));
        let new = || Linear::int8(&[(&weight, Some(&bias))]).unwrap();
        (new(), with_reference(new))
    }

    /// How far products of the set in use may be from candle's: those of bf16 tiles round their rows.
    fn tolerance(dtype: DType) -> f32 {
        let rounded = dtype == DType::BF16 && crate::multiplies_bf16();
        if rounded { 6e-3 } else { 2e-6 }
    }

    fn rows_of(tokens: usize) -> RowLayout {
        RowLayout::new(&[tokens / 3, 0, tokens - tokens / 3])
    }

    /// Checks every product of two maps, `[k]` to `[n]`.
    fn check(name: &str, (fast, plain): (Linear, Linear), (tokens, k, n): (usize, usize, usize), tolerance: f32) {
        assert!(matches!(plain.0, Weights::Plain { .. }));
        let (x, residual) = (randn(3, (tokens, k)), randn(4, (tokens, n)));
        let (gate, rows) = (randn(5, (3, 6 * n)).narrow(1, 2 * n, n).unwrap(), rows_of(tokens));
        let name = |op| format!("{op} {tokens}x{k}x{n} {name}");
        assert_close(&name("forward"), &fast.forward(&x).unwrap(), &plain.forward(&x).unwrap(), tolerance);
        assert_close(&name("gelu"), &fast.forward_gelu(&x).unwrap(), &plain.forward_gelu(&x).unwrap(), tolerance);
        let gated = |linear: &Linear| linear.forward_gated(&x, &residual, &gate, &rows).unwrap();
        assert_close(&name("gated"), &gated(&fast), &gated(&plain), tolerance);
    }

    #[test]
    fn kernels_agree_with_candle() {
        on_each_set(|set| {
            for shape in SHAPES {
                let (_, k, n) = shape;
                for dtype in [DType::F32, DType::BF16, DType::F16] {
                    check(&format!("{dtype:?} {set}"), linears(dtype, n, k), shape, tolerance(dtype));
                }
                // The reference rounds no rows.
                check(&format!("int8 {set}"), int8(n, k), shape, 2e-2);
            }
        });
    }

    #[test]
    fn eight_bit_weights_are_multiples_of_a_scale() {
        on_each_set(|_| {
            let weight = Tensor::new(&[[1.27f32, -0.5, 0.004], [0.0, 0.0, 0.0]], &candle_core::Device::Cpu).unwrap();
            let linear = Linear::int8(&[(&weight, None)]).unwrap();
            let plain = with_reference(|| Linear::int8(&[(&weight, None)])).unwrap();
            let expected = Tensor::new(&[[1.27f32, -0.5, 0.0], [0.0, 0.0, 0.0]], &candle_core::Device::Cpu).unwrap();
            let unit = Tensor::eye(3, DType::F32, &candle_core::Device::Cpu).unwrap();
            let expected = expected.t().unwrap().contiguous().unwrap();
            let unpacked = with_reference(|| linear.forward(&unit)).unwrap();
            for given in [linear.forward(&unit).unwrap(), unpacked, plain.forward(&unit).unwrap()] {
                assert_close("rounded", &given, &expected, 1e-6);
            }
        });
    }

    #[test]
    fn a_small_map_by_hand() {
        on_each_set(|_| {
            let cpu = &candle_core::Device::Cpu;
            let (weight, bias) = (Tensor::new(&[[1f32, 2.0], [3.0, 4.0]], cpu), Tensor::new(&[0.5f32, -0.5], cpu));
            let linear = Linear::new(&weight.unwrap(), Some(&bias.unwrap())).unwrap();
            let x = Tensor::new(&[[1f32, 1.0], [10.0, 0.0]], cpu).unwrap();
            let residual = Tensor::new(&[[1f32, 1.0], [1.0, 1.0]], cpu).unwrap();
            let gate = Tensor::new(&[[1f32, 2.0], [0.0, -1.0]], cpu).unwrap();
            let gated = |linear: &Linear| {
                numbers(&linear.forward_gated(&x, &residual, &gate, &RowLayout::new(&[1, 1])).unwrap())
            };
            for given in [gated(&linear), with_reference(|| gated(&linear))] {
                assert_eq!(given, [4.5, 14.0, 1.0, -28.5]);
            }
        });
    }

    /// Checks that rows 2 of [`rows_of`] come out as they do alone.
    fn check_company(fast: &Linear, (tokens, k, n): (usize, usize, usize)) {
        let (x, residual) = (randn(3, (tokens, k)), randn(4, (tokens, n)));
        let (gate, rows) = (randn(5, (3, n)), rows_of(tokens));
        let together = [fast.forward_gelu(&x), fast.forward_gated(&x, &residual, &gate, &rows)];
        let row = rows.range(2);
        let of_row = |t: &Tensor| t.narrow(0, row.start, row.len()).unwrap();
        let gate = gate.narrow(0, 2, 1).unwrap();
        let layout = RowLayout::new(&[row.len()]);
        let alone =
            [fast.forward_gelu(&of_row(&x)), fast.forward_gated(&of_row(&x), &of_row(&residual), &gate, &layout)];
        for (together, alone) in together.iter().zip(&alone) {
            assert_eq!(numbers(&of_row(together.as_ref().unwrap())), numbers(alone.as_ref().unwrap()), "{k}");
        }
    }

    #[test]
    fn a_row_does_not_depend_on_its_company() {
        on_each_set(|_| {
            for shape in SHAPES {
                let (_, k, n) = shape;
                for (fast, _) in [linears(DType::F32, n, k), linears(DType::BF16, n, k), int8(n, k)] {
                    check_company(&fast, shape);
                }
            }
        });
    }

    #[test]
    fn parts_lie_side_by_side() {
        on_each_set(|_| {
            let (q, k, x) = (randn(1, (20, 12)), randn(2, (7, 12)), randn(3, (2, 5, 12)));
            let bias = randn(4, 7);
            let fused = Linear::cat(&[(&q, None), (&k, Some(&bias))]).unwrap();
            assert_eq!((fused.in_features(), fused.out_features()), (12, 27));
            let expected =
                [Linear::new(&q, None), Linear::new(&k, Some(&bias))].map(|part| part.unwrap().forward(&x).unwrap());
            assert_close("cat", &fused.forward(&x).unwrap(), &Tensor::cat(&expected, 2).unwrap(), 1e-7);
            let half = [&q, &k].map(|t| t.to_dtype(DType::BF16).unwrap());
            let fused_half = Linear::cat(&[(&half[0], None), (&half[1], None)]).unwrap();
            let plain = with_reference(|| Linear::cat(&[(&half[0], None), (&half[1], None)])).unwrap();
            let tolerance = tolerance(DType::BF16);
            assert_close("cat bf16", &fused_half.forward(&x).unwrap(), &plain.forward(&x).unwrap(), tolerance);
            let int8 = |parts: &[(&Tensor, Option<&Tensor>)]| Linear::int8(parts).unwrap().forward(&x).unwrap();
            let expected = [int8(&[(&q, None)]), int8(&[(&k, Some(&bias))])];
            let fused_int8 = int8(&[(&q, None), (&k, Some(&bias))]);
            assert_close("cat int8", &fused_int8, &Tensor::cat(&expected, 2).unwrap(), 1e-7);
            let (plain, unpacked) = (with_reference(|| fused.forward(&x)), fused.forward(&x));
            assert_close("unpacked", &unpacked.unwrap(), &plain.unwrap(), 1e-6);
        });
    }

    #[test]
    fn half_precision_activations_stay_so() {
        on_each_set(|_| {
            let (linear, _) = linears(DType::BF16, 48, 64);
            let x = randn(3, (5, 64));
            let half = linear.forward(&x.to_dtype(DType::BF16).unwrap()).unwrap();
            assert_eq!(half.dtype(), DType::BF16);
            assert_close("bf16", &half, &linear.forward(&x).unwrap(), 2e-2);
            let (gate, rows) = (randn(5, (1, 48)).to_dtype(DType::BF16).unwrap(), RowLayout::new(&[5]));
            let gated = linear.forward_gated(&x.to_dtype(DType::BF16).unwrap(), &half, &gate, &rows).unwrap();
            assert_eq!(gated.dtype(), DType::BF16);
        });
    }

    #[test]
    fn errors_name_what_was_given() {
        let linear = Linear::new(&randn(1, (4, 8)), None).unwrap();
        let message = linear.forward(&randn(2, (3, 9))).unwrap_err().to_string();
        assert!(message.starts_with("x must have 8 features. Given: 9"), "{message}");
        let gated =
            linear.forward_gated(&randn(2, (3, 8)), &randn(2, (3, 4)), &randn(2, (2, 4)), &RowLayout::new(&[3]));
        let wide = Tensor::zeros((1, 65_537), DType::F32, &candle_core::Device::Cpu).unwrap();
        let message = Linear::int8(&[(&wide, None)]).unwrap_err().to_string();
        let expected = "weight must have at most 65536 columns for eight-bit products. Given: 65537";
        assert!(message.starts_with(expected), "{message}");
        let message = gated.unwrap_err().to_string();
        assert!(message.starts_with("gate must be [1, 4], one vector a row. Given: [2, 4]"), "{message}");
    }
}
