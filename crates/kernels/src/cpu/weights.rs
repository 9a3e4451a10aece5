//! Packed weights behind the backend traits: tensors in, tensors out.

use candle_core::{DType, Device, Result, Tensor, bail};

use super::bf16::Bf16;
use super::conv_operands::{self, Input};
use super::gemm;
use super::int8::Int8;
use super::linear;
use super::numbers::{F32, RowVectors, tensor, wide};
use super::sets;
use super::tile_kernels::TileLinear;
use super::tile_linear;
use super::tiles::Format;
use crate::backend::{PackedConv, PackedLinear};
use crate::operands::{ConvInput, Epilogue};

/// Half-precision activations are widened, because the sums are f32.
impl PackedLinear for linear::PanelLinear {
    fn in_features(&self) -> usize {
        self.in_features()
    }

    fn out_features(&self) -> usize {
        self.out_features()
    }

    fn unpack(&self) -> Result<(Tensor, Tensor)> {
        self.unpack()
    }

    fn tensors(&self) -> Vec<&Tensor> {
        Vec::new()
    }

    fn forward(&self, x: &Tensor, epilogue: Epilogue<'_>) -> Result<Option<Tensor>> {
        let Some(kernels) = sets::current() else { return Ok(None) };
        product(x, epilogue, self.out_features(), |x, epilogue| kernels.linear(self, x, epilogue))
    }
}

/// A tile format for the weights of an operation.
trait TileWeights: Format {
    /// The type of an unpacked weight: its original type, or the widest type that it may have been rounded from.
    const DTYPE: DType;
    /// The products of the current instruction set. If there are none the reference runs.
    fn products() -> Option<&'static dyn TileLinear<Self>>;
}

impl TileWeights for Int8 {
    const DTYPE: DType = DType::F32;

    fn products() -> Option<&'static dyn TileLinear<Int8>> {
        Some(&*sets::current_tiles()?.int8)
    }
}

/// Weights are packed if the current set has bf16 products. A later call may use another set.
impl TileWeights for Bf16 {
    const DTYPE: DType = DType::BF16;

    fn products() -> Option<&'static dyn TileLinear<Bf16>> {
        sets::current_tiles()?.bf16.as_deref().map(|bf16| bf16 as _)
    }
}

impl<F: TileWeights> PackedLinear for tile_linear::TiledWeights<F> {
    fn in_features(&self) -> usize {
        self.in_features()
    }

    fn out_features(&self) -> usize {
        self.out_features()
    }

    fn unpack(&self) -> Result<(Tensor, Tensor)> {
        let (weight, bias) = self.unpack()?;
        Ok((weight.to_dtype(F::DTYPE)?, bias))
    }

    fn tensors(&self) -> Vec<&Tensor> {
        Vec::new()
    }

    fn forward(&self, x: &Tensor, epilogue: Epilogue<'_>) -> Result<Option<Tensor>> {
        let Some(products) = F::products() else { return Ok(None) };
        product(x, epilogue, self.out_features(), |x, epilogue| products.forward(self, x, epilogue))
    }
}

/// Applies `kernel` to the numbers of `x` and of the epilogue's operands, and returns a tensor.
fn product(
    x: &Tensor,
    epilogue: Epilogue<'_>,
    out_features: usize,
    kernel: impl FnOnce(&[f32], gemm::Epilogue<'_>) -> Vec<f32>,
) -> Result<Option<Tensor>> {
    let wide_x = wide(x)?;
    let Some(numbers) = F32::of(&wide_x) else { bail!("x must lie in host memory as the weight does") };
    let out = match epilogue {
        Epilogue::None => kernel(&numbers, gemm::Epilogue::None),
        Epilogue::Gelu => kernel(&numbers, gemm::Epilogue::Gelu),
        Epilogue::Gated { residual, gate, rows } => {
            let residual = residual.contiguous()?;
            let (Some(residual), Some(gate)) = (F32::of(&residual), RowVectors::of(gate)) else { return Ok(None) };
            let row_of = rows.iter().enumerate().flat_map(|(row, tokens)| tokens.map(move |_| row));
            let gate_offsets: Vec<_> = row_of.map(|row| row * gate.stride()).collect();
            let (residual, gate) = (&*residual, gate.as_slice());
            kernel(&numbers, gemm::Epilogue::Gated { residual, gate, gate_offsets: &gate_offsets })
        }
    };
    let mut shape = x.dims().to_vec();
    shape.pop();
    shape.push(out_features);
    tensor(out, shape)?.to_dtype(x.dtype()).map(Some)
}

/// Half-precision pictures are widened, because the weights are f32.
impl PackedConv for conv_operands::PanelConv {
    fn in_channels(&self) -> usize {
        self.in_channels()
    }

    fn out_channels(&self) -> usize {
        self.out_channels()
    }

    fn unpack(&self) -> Result<(Tensor, Tensor)> {
        let (weight, bias) = self.unpack();
        let weight = Tensor::from_vec(weight, (self.out_channels(), self.in_channels(), 3, 3), &Device::Cpu)?;
        Ok((weight, Tensor::from_vec(bias, self.out_channels(), &Device::Cpu)?))
    }

    fn forward(&self, x: &Tensor, input: ConvInput<'_>, residual: Option<&Tensor>) -> Result<Option<Tensor>> {
        let Some(kernels) = sets::current() else { return Ok(None) };
        let (height, width, _) = x.dims3()?;
        let (pixels, residual) = (wide(x)?, residual.map(wide).transpose()?);
        let residual = residual.as_ref().map(F32::of);
        let (Some(pixels), false) = (F32::of(&pixels), matches!(residual, Some(None))) else { return Ok(None) };
        let convolve =
            |input| kernels.conv(self, &pixels, (height, width), input, residual.as_ref().and_then(Option::as_deref));
        let (out, scale) = match input {
            ConvInput::Plain => (convolve(Input::Plain), 1),
            ConvInput::Upsampled => (convolve(Input::Upsampled), 2),
            ConvInput::NormSilu(gamma) => {
                let gamma = gamma.to_dtype(DType::F32)?.contiguous()?;
                let Some(gamma) = F32::of(&gamma) else { return Ok(None) };
                (convolve(Input::NormSilu(&gamma)), 1)
            }
            ConvInput::GroupNormSilu(norm) => {
                let (Some(weight), Some(bias)) = (F32::of(&norm.weight), F32::of(&norm.bias)) else { return Ok(None) };
                let affine = kernels.group_norm(&pixels, (&weight, &bias), norm.num_groups, norm.eps);
                (convolve(Input::AffineSilu(&affine)), 1)
            }
        };
        tensor(out, (scale * height, scale * width, self.out_channels()))?.to_dtype(x.dtype()).map(Some)
    }

    fn forward_stride2(&self, x: &Tensor) -> Result<Option<Tensor>> {
        let (height, width, _) = x.dims3()?;
        let (Some(kernels), pixels) = (sets::current(), wide(x)?) else { return Ok(None) };
        let Some(pixels) = F32::of(&pixels) else { return Ok(None) };
        let out = kernels.conv_stride2(self, &pixels, (height, width));
        tensor(out, (height / 2, width / 2, self.out_channels()))?.to_dtype(x.dtype()).map(Some)
    }
}
