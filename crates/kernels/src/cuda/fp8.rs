//! Linear maps in eight-bit floats: `cuda/fp8.cu` rounds the rows, then cuBLASLt multiplies.
//!
//! On Hopper the library applies the scales of rows and outputs, the bias and the GELU. On other GPUs it returns f32
//! sums, and a kernel does the rest.

use candle_core::{DType, Result, Tensor, bail};

use super::argument::Address;
use super::gpu::{Gpu, Kernel, gpu, grid, is_served};
use super::layout::{WIDTH, dense};
use super::linear::gated_residual;
use super::lt::{Numbers, Operands, Product};
use crate::backend::PackedLinear;
use crate::e4m3::decoded;
use crate::operands::Epilogue;

const ROUNDED_ROWS: Kernel = Kernel { module: "fp8", name: "rounded_rows" };
const SCALED_SUMS: Kernel = Kernel { module: "fp8", name: "scaled_sums" };

/// Sizes must be multiples of this.
const SIDE: usize = 16;
/// The largest number of threads per row, and the numbers of a row that each thread holds.
const MAX_THREADS: usize = 1024;
const NUMBERS_A_THREAD: usize = 4 * WIDTH;
const BLOCK: usize = 256;

/// A matrix of e4m3 numbers with one scale per row.
#[derive(Debug)]
struct Rounded {
    /// `[rows, dim]` in bytes.
    numbers: Tensor,
    /// `[rows]` in f32.
    scales: Tensor,
}

impl Rounded {
    /// Rounds `[.., dim]` matrices, with their rows stacked one below the other.
    fn of(gpu: &Gpu, parts: &[Tensor]) -> Result<Self> {
        let dim = parts[0].dims().last().copied().unwrap_or(0);
        let rows = |part: &Tensor| part.elem_count() / dim;
        let total = parts.iter().map(rows).sum();
        let rounded = Rounded { numbers: gpu.output((total, dim), DType::U8)?, scales: gpu.output(total, DType::F32)? };
        let mut first = 0;
        for part in parts.iter().filter(|part| rows(part) > 0) {
            let (from, rows) = (dense(part)?, rows(part));
            let (numbers, scales) = (rounded.numbers.narrow(0, first, rows)?, rounded.scales.narrow(0, first, rows)?);
            let threads = dim.div_ceil(NUMBERS_A_THREAD).next_multiple_of(32);
            let rows_a_block = if threads == 32 { BLOCK / 32 } else { 1 };
            let (from, numbers, scales) = (Address::of(&from)?, Address::of(&numbers)?, Address::of(&scales)?);
            let config = grid((rows.div_ceil(rows_a_block), 1, 1), (threads, rows_a_block), 0);
            let args: [&dyn super::argument::Argument; 5] = [&from, &numbers, &scales, &(rows as i32), &(dim as i32)];
            gpu.launch(ROUNDED_ROWS, part.dtype(), config, &args)?;
            first += rows;
        }
        Ok(rounded)
    }
}

/// A weight in eight-bit floats.
#[derive(Debug)]
pub(super) struct Fp8Linear {
    /// `[out, in]`
    weight: Rounded,
    /// `[out]`, of the weight's original type.
    bias: Option<Tensor>,
    /// The weight's original type, which is also that of the activations.
    dtype: DType,
}

/// Which side applies the scales of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScaledBy {
    Library,
    Kernel,
}

impl Fp8Linear {
    /// `None` for unsupported float types, and for sizes that are not multiples of 16 or too large.
    pub(super) fn new(weights: &[Tensor], bias: Option<&Tensor>) -> Result<Option<Self>> {
        let (dtype, in_features) = (weights[0].dtype(), weights[0].dim(1)?);
        let out_features: usize = weights.iter().map(|weight| weight.dims()[0]).sum();
        let fits = in_features.is_multiple_of(SIDE) && out_features.is_multiple_of(SIDE) && out_features > 0;
        if !is_served(dtype) || !fits || in_features > MAX_THREADS * NUMBERS_A_THREAD {
            return Ok(None);
        }
        let weight = Rounded::of(&*gpu(&weights[0])?, weights)?;
        let bias = bias.map(|bias| dense(&bias.to_dtype(dtype)?)).transpose()?;
        Ok(Some(Fp8Linear { weight, bias, dtype }))
    }

    fn product(&self, x: &Tensor, gelu: bool) -> Result<Tensor> {
        let (gpu, n, k) = (gpu(x)?, self.out_features(), self.in_features());
        let m = x.elem_count() / k;
        let mut shape = x.dims().to_vec();
        shape.pop();
        shape.push(n);
        if m == 0 {
            return gpu.output(shape, x.dtype());
        }
        let rows = Rounded::of(&gpu, std::slice::from_ref(x))?;
        // Only Hopper has scales per row and per output, and results in f32 cannot have a bias with them.
        let is_first_choice = gpu.capability.0 == 9 && x.dtype() == DType::BF16;
        let ways: &[ScaledBy] =
            if is_first_choice { &[ScaledBy::Library, ScaledBy::Kernel] } else { &[ScaledBy::Kernel] };
        for scaled_by in ways {
            if let Some(out) = self.product_by(*scaled_by, &gpu, &rows, gelu)? {
                return out.reshape(shape);
            }
        }
        bail!("cuBLASLt has no product of eight-bit floats of {m}x{k} by {k}x{n} for this GPU")
    }

    /// `[rows, out]`; `None` if the library cannot compute it.
    fn product_by(&self, scaled_by: ScaledBy, gpu: &Gpu, rows: &Rounded, gelu: bool) -> Result<Option<Tensor>> {
        let ((m, k), n) = (rows.numbers.dims2()?, self.out_features());
        let in_library = scaled_by == ScaledBy::Library;
        let bias = self.bias.as_ref().map(Address::of).transpose()?;
        let out = gpu.output((m, n), if in_library { self.dtype } else { DType::F32 })?;
        let scales = [Address::of(&self.weight.scales)?, Address::of(&rows.scales)?];
        let operands = Operands {
            x: Address::of(&rows.numbers)?,
            weight: Address::of(&self.weight.numbers)?,
            bias: bias.filter(|_| in_library),
            scales: in_library.then_some(scales),
            out: Address::of(&out)?,
        };
        let numbers = Numbers { operands: DType::F8E4M3, out: out.dtype() };
        let product = Product { m, n, k, numbers, gelu: gelu && in_library };
        if !gpu.lt()?.multiply(product, &operands)? {
            return Ok(None);
        }
        if in_library {
            return Ok(Some(out));
        }
        let (scaled, pieces) = (gpu.output((m, n), self.dtype)?, m * n / WIDTH);
        let [of_outputs, of_rows] = scales;
        gpu.launch(
            SCALED_SUMS,
            self.dtype,
            grid((pieces.div_ceil(BLOCK), 1, 1), (BLOCK, 1), 0),
            &[
                &operands.out,
                &of_rows,
                &of_outputs,
                &bias.unwrap_or(Address::NULL),
                &Address::of(&scaled)?,
                &(pieces as i64),
                &(n as i32),
                &i32::from(gelu),
            ],
        )?;
        Ok(Some(scaled))
    }
}

impl PackedLinear for Fp8Linear {
    fn in_features(&self) -> usize {
        self.weight.numbers.dims()[1]
    }

    fn out_features(&self) -> usize {
        self.weight.numbers.dims()[0]
    }

    fn unpack(&self) -> Result<(Tensor, Tensor)> {
        let Rounded { numbers, scales } = &self.weight;
        let (shape, device) = (numbers.shape(), numbers.device());
        let bytes = numbers.flatten_all()?.to_vec1::<u8>()?;
        let wide = Tensor::from_iter(bytes.into_iter().map(decoded), device)?.reshape(shape)?;
        let bias = match &self.bias {
            Some(bias) => bias.clone(),
            None => Tensor::zeros(self.out_features(), self.dtype, device)?,
        };
        Ok((wide.broadcast_mul(&scales.unsqueeze(1)?)?, bias))
    }

    fn tensors(&self) -> Vec<&Tensor> {
        let Rounded { numbers, scales } = &self.weight;
        [numbers, scales].into_iter().chain(&self.bias).collect()
    }

    fn forward(&self, x: &Tensor, epilogue: Epilogue<'_>) -> Result<Option<Tensor>> {
        if crate::cpu::sets::is_reference_forced() || x.dtype() != self.dtype {
            return Ok(None);
        }
        match epilogue {
            Epilogue::None => self.product(x, false).map(Some),
            Epilogue::Gelu => self.product(x, true).map(Some),
            Epilogue::Gated { residual, .. } if residual.dtype() != x.dtype() => Ok(None),
            Epilogue::Gated { residual, gate, rows } => {
                gated_residual(&self.product(x, false)?, residual, gate, rows).map(Some)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::super::tests::device;
    use super::*;
    use crate::testing::{assert_close, numbers, randn};
    use crate::{Linear, RowLayout};

    /// Tokens, inputs and outputs: rows of one warp and of more, one piece per thread and several.
    const SHAPES: [(usize, usize, usize); 5] = [(1, 16, 16), (7, 160, 48), (13, 1040, 96), (3, 4128, 32), (0, 32, 16)];

    /// A map and its operands rounded to `dtype`, and the emulated map of the same numbers.
    struct Case {
        packed: Fp8Linear,
        emulated: Linear,
        /// The input, the residual, and the gates of three rows.
        operands: [Tensor; 3],
        rows: RowLayout,
    }

    impl Case {
        fn new((tokens, k, n): (usize, usize, usize), dtype: DType, with_bias: bool) -> Case {
            let kept = |t: Tensor| t.to_dtype(dtype).unwrap();
            let on_device = |t: &Tensor| t.to_device(device()).unwrap();
            let weights = [n - 8, 8].map(|rows| kept((randn(rows as u64, (rows, k)) * 0.1).unwrap()));
            let bias = with_bias.then(|| kept(randn(2, n)));
            let packed = Fp8Linear::new(&weights.each_ref().map(on_device), bias.as_ref().map(on_device).as_ref());
            let weight = Tensor::cat(&weights, 0).unwrap();
            Case {
                packed: packed.unwrap().unwrap(),
                emulated: Linear::fp8(&[(&weight, bias.as_ref())]).unwrap(),
                operands: [randn(3, (tokens, k)), randn(4, (tokens, n)), randn(5, (3, n))].map(kept),
                rows: RowLayout::new(&[tokens / 3, 0, tokens - tokens / 3]),
            }
        }

        #[track_caller]
        fn check(&self, name: &str, given: &Tensor, expected: &Tensor) {
            assert_eq!((given.dtype(), given.dims()), (self.packed.dtype, expected.dims()), "{name}");
            // The sums have the same terms in another order. In bf16 they are rounded.
            let tolerance = if self.packed.dtype == DType::F32 { 4e-6 } else { 6e-3 };
            let given = given.to_device(&Device::Cpu).unwrap();
            assert_close(name, &given, &expected.to_dtype(DType::F32).unwrap(), tolerance);
        }
    }

    fn each_case(check: impl Fn(&str, &Case)) {
        for shape in SHAPES {
            for dtype in [DType::F32, DType::BF16] {
                for with_bias in [true, false] {
                    check(&format!("{shape:?} {dtype:?}, bias {with_bias}"), &Case::new(shape, dtype, with_bias));
                }
            }
        }
    }

    #[test]
    fn fp8_maps_agree_with_the_emulation() {
        each_case(|name, case| {
            let [x, residual, gate] = case.operands.each_ref().map(|t| t.to_device(device()).unwrap());
            let wide = case.operands.each_ref().map(|t| t.to_dtype(DType::F32).unwrap());
            let forward = |epilogue| case.packed.forward(&x, epilogue).unwrap().unwrap();
            case.check(name, &forward(Epilogue::None), &case.emulated.forward(&wide[0]).unwrap());
            let gelu = case.emulated.forward_gelu(&wide[0]).unwrap();
            case.check(&format!("gelu {name}"), &forward(Epilogue::Gelu), &gelu);
            let rows = &case.rows;
            let given = forward(Epilogue::Gated { residual: &residual, gate: &gate, rows });
            let gated = case.emulated.forward_gated(&wide[0], &wide[1], &wide[2], rows).unwrap();
            case.check(&format!("gated {name}"), &given, &gated);
        });
    }

    /// Both ways to apply scales: Hopper's and that of other GPUs.
    #[test]
    fn scales_are_applied_by_the_library_or_by_a_kernel() {
        each_case(|name, case| {
            let x = case.operands[0].to_device(device()).unwrap();
            if x.elem_count() == 0 {
                return;
            }
            let gpu = gpu(&x).unwrap();
            let rows = Rounded::of(&gpu, std::slice::from_ref(&x)).unwrap();
            let wide = case.operands[0].to_dtype(DType::F32).unwrap();
            for (gelu, expected) in [(false, case.emulated.forward(&wide)), (true, case.emulated.forward_gelu(&wide))] {
                for scaled_by in [ScaledBy::Library, ScaledBy::Kernel] {
                    let is_there = scaled_by == ScaledBy::Kernel || gpu.capability.0 == 9 && x.dtype() == DType::BF16;
                    if !is_there {
                        continue;
                    }
                    let given = case.packed.product_by(scaled_by, &gpu, &rows, gelu).unwrap().expect("a product");
                    case.check(&format!("{scaled_by:?}, gelu {gelu}, {name}"), &given, expected.as_ref().unwrap());
                }
            }
        });
    }

    #[test]
    fn fp8_rows_that_hold_no_numbers_tell_of_it() {
        let case = Case::new((3, 32, 16), DType::BF16, false);
        let mut x = numbers(&case.operands[0].to_dtype(DType::F32).unwrap());
        x[40] = f32::NAN;
        x[64..].fill(1e-38);
        let x = Tensor::from_vec(x, (3, 32), device()).unwrap().to_dtype(DType::BF16).unwrap();
        let out = case.packed.forward(&x, Epilogue::None).unwrap().unwrap().to_dtype(DType::F32).unwrap();
        let out = numbers(&out);
        assert!(out[..16].iter().all(|x| x.is_finite() && *x != 0.0));
        assert!(out[16..32].iter().all(|x| x.is_nan()) && out[32..].iter().all(|x| *x == 0.0), "{out:?}");
    }

    #[test]
    fn fp8_weights_come_back_rounded() {
        let case = Case::new((1, 160, 48), DType::BF16, true);
        let (weight, _) = case.packed.unpack().unwrap();
        let unit = Tensor::eye(160, DType::F32, &Device::Cpu).unwrap();
        let (bias, columns) = (case.packed.bias.as_ref().unwrap(), case.emulated.forward(&unit).unwrap());
        let bias = bias.to_dtype(DType::F32).unwrap().to_device(&Device::Cpu).unwrap();
        let expected = columns.broadcast_sub(&bias).unwrap().t().unwrap().contiguous().unwrap();
        assert_close("weight", &weight.to_device(&Device::Cpu).unwrap(), &expected, 1e-5);
    }

    /// Maps of other sizes keep their weights.
    #[test]
    fn fp8_maps_of_odd_sizes_are_none() {
        let weight = |n, k| randn(1, (n, k)).to_device(device()).unwrap();
        for (n, k) in [(16, 24), (24, 16), (16, 32_784)] {
            assert!(Fp8Linear::new(&[weight(n, k)], None).unwrap().is_none(), "{n} {k}");
        }
        let half = weight(16, 16).to_dtype(DType::F16).unwrap();
        assert!(Fp8Linear::new(&[half], None).unwrap().is_none());
        let (x, weight) = (randn(2, (3, 24)), weight(16, 24));
        let plain = Linear::new(&weight, None).unwrap().forward(&x.to_device(device()).unwrap()).unwrap();
        let kept = Linear::fp8(&[(&weight, None)]).unwrap().forward(&x.to_device(device()).unwrap()).unwrap();
        assert_eq!(numbers(&kept), numbers(&plain));
    }
}
