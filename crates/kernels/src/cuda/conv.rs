//! 3x3 convolutions without im2col columns in memory: `cuda/conv_mma.cu` in bf16, `cuda/conv_tiled.cu` in f32.

use candle_core::cuda_backend::cudarc::driver::DeviceRepr;
use candle_core::{DType, Result, Tensor};

use super::argument::{Address, argument};
use super::gpu::{Kernel, gpu, grid, is_served};
use super::layout::dense;
use crate::backend::PackedConv;
use crate::operands::ConvInput;

/// The sides of a block's tile of output pixels.
const TILE: (usize, usize) = (8, 16);
const TAPS: usize = 9;

/// How output pixels map to input pixels; `Sampling` of `conv.cuh`.
#[derive(Clone, Copy)]
enum Sampling {
    Same,
    Stride2,
    Upsampled,
}

/// The block layout of the kernels of a type.
struct Layout {
    /// Input channels that a block sums at a time. A weight is padded with zeros to a multiple of it.
    channels: usize,
    /// Output channels per block.
    outs: usize,
    threads: usize,
}

impl Layout {
    fn new(dtype: DType, out_channels: usize) -> Self {
        match dtype {
            DType::BF16 => Layout { channels: 32, outs: outs_of_a_block(out_channels), threads: 128 },
            _ => Layout { channels: 8, outs: 64, threads: 256 },
        }
    }
}

/// The width of the bf16 kernel with the least padding; the widest of several.
fn outs_of_a_block(out_channels: usize) -> usize {
    let padded = |outs: &usize| out_channels.next_multiple_of(*outs);
    [128, 96, 32].into_iter().min_by_key(padded).unwrap_or(32)
}

/// A convolution's weight in the layout of its type's kernel.
#[derive(Debug)]
pub(super) struct DeviceConv {
    /// For each block of input channels and each tap, a matrix of all output channels and those input channels: `[out,
    /// in]` for bf16, `[in, out]` for f32.
    weight: Tensor,
    /// The bias in f32, padded with zeros.
    bias: Tensor,
    in_channels: usize,
    out_channels: usize,
}

impl DeviceConv {
    /// `None` for unsupported float types.
    pub(super) fn new(weight: &Tensor, bias: &Tensor) -> Result<Option<Self>> {
        let (out_channels, in_channels, _, _) = weight.dims4()?;
        if !is_served(weight.dtype()) || out_channels == 0 {
            return Ok(None);
        }
        let Layout { channels, outs, .. } = Layout::new(weight.dtype(), out_channels);
        let (padded_in, padded_out) = (in_channels.next_multiple_of(channels), out_channels.next_multiple_of(outs));
        let weight = weight.pad_with_zeros(1, 0, padded_in - in_channels)?;
        let weight = weight.pad_with_zeros(0, 0, padded_out - out_channels)?.contiguous()?;
        let weight = weight.reshape((padded_out, padded_in / channels, channels, TAPS))?;
        let weight = match weight.dtype() {
            DType::BF16 => weight.permute((1, 3, 0, 2))?,
            _ => weight.permute((1, 3, 2, 0))?,
        };
        let bias = bias.to_dtype(DType::F32)?.pad_with_zeros(0, 0, padded_out - out_channels)?;
        Ok(Some(DeviceConv { weight: weight.contiguous()?, bias: dense(&bias)?, in_channels, out_channels }))
    }

    fn convolve(&self, x: &Tensor, sampling: Sampling, residual: Option<&Tensor>) -> Result<Tensor> {
        let (gpu, x, dtype, (height, width, _)) = (gpu(x)?, dense(x)?, x.dtype(), x.dims3()?);
        let residual = residual.map(dense).transpose()?;
        let (out_height, out_width) = match sampling {
            Sampling::Same => (height, width),
            Sampling::Stride2 => (height / 2, width / 2),
            Sampling::Upsampled => (2 * height, 2 * width),
        };
        let out = gpu.output((out_height, out_width, self.out_channels), dtype)?;
        let layout = Layout::new(dtype, self.out_channels);
        let padded_out = self.bias.elem_count();
        let operands = Operands {
            x: Address::of(&x)?,
            weight: Address::of(&self.weight)?,
            bias: Address::of(&self.bias)?,
            residual: Address::or_null(residual.as_ref())?,
            out: Address::of(&out)?,
            size: [height, width, self.in_channels].map(|side| side as i32),
            out_size: [out_height, out_width, self.out_channels].map(|side| side as i32),
            padded_out: padded_out as i32,
        };
        let tiles = out_height.div_ceil(TILE.0) * out_width.div_ceil(TILE.1);
        let blocks = (tiles * (padded_out / layout.outs), 1, 1);
        let shared_bytes = if dtype == DType::BF16 { shared_bytes(sampling, layout.outs) } else { 0 };
        let kernel = kernel(dtype, sampling, layout.outs);
        gpu.launch(kernel, dtype, grid(blocks, (layout.threads, 1), shared_bytes), &[&operands])?;
        Ok(out)
    }

    /// Whether the kernels support this picture.
    fn takes(&self, x: &Tensor) -> bool {
        !crate::cpu::sets::is_reference_forced() && x.dtype() == self.weight.dtype()
    }
}

/// A kernel is named after its sampling and, in bf16, the output channels per block.
fn kernel(dtype: DType, sampling: Sampling, outs: usize) -> Kernel {
    let of = |[narrow, middle, wide]: [&'static str; 3]| match outs {
        32 => narrow,
        96 => middle,
        _ => wide,
    };
    match (dtype, sampling) {
        (DType::BF16, sampling) => Kernel {
            module: "conv_mma",
            name: match sampling {
                Sampling::Same => of(["conv_same_32", "conv_same_96", "conv_same_128"]),
                Sampling::Stride2 => of(["conv_stride2_32", "conv_stride2_96", "conv_stride2_128"]),
                Sampling::Upsampled => of(["conv_upsampled_32", "conv_upsampled_96", "conv_upsampled_128"]),
            },
        },
        (_, Sampling::Same) => Kernel { module: "conv_tiled", name: "conv_same" },
        (_, Sampling::Stride2) => Kernel { module: "conv_tiled", name: "conv_stride2" },
        (_, Sampling::Upsampled) => Kernel { module: "conv_tiled", name: "conv_upsampled" },
    }
}

/// Shared memory of a block of the bf16 kernel: two halos of 32 channels, and the weights of four taps.
fn shared_bytes(sampling: Sampling, outs: usize) -> usize {
    const ROW: usize = 32 * 2;
    let side = |outs: usize| match sampling {
        Sampling::Same => outs + 2,
        Sampling::Stride2 => 2 * outs + 1,
        Sampling::Upsampled => outs / 2 + 2,
    };
    (2 * side(TILE.0) * side(TILE.1) + 4 * outs) * ROW
}

impl PackedConv for DeviceConv {
    fn in_channels(&self) -> usize {
        self.in_channels
    }

    fn out_channels(&self) -> usize {
        self.out_channels
    }

    fn unpack(&self) -> Result<(Tensor, Tensor)> {
        let weight = match self.weight.dtype() {
            DType::BF16 => self.weight.permute((2, 0, 3, 1))?,
            _ => self.weight.permute((3, 0, 2, 1))?,
        };
        let (padded_out, blocks, channels, _) = weight.dims4()?;
        let weight = weight.contiguous()?.reshape((padded_out, blocks * channels, 3, 3))?;
        let weight = weight.narrow(0, 0, self.out_channels)?.narrow(1, 0, self.in_channels)?.contiguous()?;
        Ok((weight, self.bias.narrow(0, 0, self.out_channels)?))
    }

    fn forward(&self, x: &Tensor, input: ConvInput<'_>, residual: Option<&Tensor>) -> Result<Option<Tensor>> {
        if !self.takes(x) || residual.is_some_and(|residual| residual.dtype() != x.dtype()) {
            return Ok(None);
        }
        let convolved = match input {
            ConvInput::Plain => self.convolve(x, Sampling::Same, residual),
            ConvInput::NormSilu(gamma) => match super::norm::channel_norm(x, gamma, true)? {
                Some(normed) => self.convolve(&normed, Sampling::Same, residual),
                None => return Ok(None),
            },
            ConvInput::GroupNormSilu(norm) => self.convolve(&norm.forward_silu(x)?, Sampling::Same, residual),
            ConvInput::Upsampled => self.convolve(x, Sampling::Upsampled, residual),
        };
        convolved.map(Some)
    }

    fn forward_stride2(&self, x: &Tensor) -> Result<Option<Tensor>> {
        if self.takes(x) { self.convolve(x, Sampling::Stride2, None).map(Some) } else { Ok(None) }
    }
}

/// `Conv` of `conv.cuh`, with the same layout.
#[repr(C)]
struct Operands<'t> {
    x: Address<'t>,
    weight: Address<'t>,
    bias: Address<'t>,
    residual: Address<'t>,
    out: Address<'t>,
    /// Height, width, channels.
    size: [i32; 3],
    out_size: [i32; 3],
    padded_out: i32,
}

// SAFETY: addresses and numbers in the layout of the kernel.
unsafe impl DeviceRepr for Operands<'_> {}

argument!(Operands<'_>);

#[cfg(test)]
mod tests {
    use super::super::Cuda;
    use super::super::tests::{TYPES, check, device};
    use super::*;
    use crate::backend::Backend;
    use crate::testing::{numbers, randn};
    use crate::{Conv3x3, GroupNorm};

    fn packed(t: &[Tensor]) -> Box<dyn PackedConv> {
        Cuda.pack_conv(&t[1], &t[2]).unwrap().unwrap()
    }

    fn plain(t: &[Tensor]) -> Conv3x3 {
        Conv3x3::new(&t[1], &t[2]).unwrap()
    }

    /// Partial and whole tiles on either side, partial and whole blocks of channels, channels that do not fill eight,
    /// and every number of output channels per block.
    const CASES: [((usize, usize), usize, usize); 9] = [
        ((1, 1), 8, 16),
        ((9, 7), 24, 40),
        ((8, 16), 32, 96),
        ((17, 33), 3, 32),
        ((13, 20), 40, 3),
        ((10, 18), 72, 100),
        ((3, 2), 33, 130),
        ((5, 9), 4, 8),
        ((16, 32), 64, 128),
    ];

    #[test]
    fn convolutions_agree() {
        for ((height, width), input, out) in CASES {
            let weight = (randn(1, (out, input, 3, 3)) * 0.2).unwrap();
            let residual = randn(5, (height, width, out));
            let given = [randn(3, (height, width, input)), weight, randn(2, out), randn(4, input), residual];
            let name = |op| format!("{op} {height}x{width} {input}->{out}");
            let forward = |t: &[Tensor], input| packed(t).forward(&t[0], input, None);
            check(&name("conv"), &given, |t| forward(t, ConvInput::Plain), |t| plain(t).forward(&t[0]));
            check(
                &name("upsampled"),
                &given,
                |t| forward(t, ConvInput::Upsampled),
                |t| plain(t).forward_upsampled(&t[0]),
            );
            check(
                &name("norm + residual"),
                &given,
                |t| packed(t).forward(&t[0], ConvInput::NormSilu(&t[3]), Some(&t[4])),
                |t| plain(t).forward_norm_silu(&t[0], &t[3], Some(&t[4])),
            );
            let norm = |t: &[Tensor]| GroupNorm::new(&t[3], &t[3], 1, 1e-6).unwrap();
            check(
                &name("group norm"),
                &given,
                |t| packed(t).forward(&t[0], ConvInput::GroupNormSilu(&norm(t)), None),
                |t| plain(t).forward_group_norm_silu(&t[0], &norm(t), None),
            );
            if height > 1 {
                check(
                    &name("stride 2"),
                    &given,
                    |t| packed(t).forward_stride2(&t[0]),
                    |t| plain(t).forward_stride2(&t[0]),
                );
            }
        }
    }

    #[test]
    fn a_packed_weight_is_the_one_that_was_given() {
        for dtype in TYPES {
            for (input, out) in [(3, 5), (40, 96), (32, 128)] {
                let on_device = |t: Tensor| t.to_dtype(dtype).unwrap().to_device(device()).unwrap();
                let (weight, bias) = (on_device(randn(1, (out, input, 3, 3))), on_device(randn(2, out)));
                let given = Cuda.pack_conv(&weight, &bias).unwrap().unwrap().unpack().unwrap();
                assert_eq!(given.0.dims(), weight.dims());
                assert_eq!(numbers(&given.0), numbers(&weight), "{dtype:?} {input}->{out}");
                assert_eq!(numbers(&given.1), numbers(&bias), "{dtype:?} {input}->{out}");
            }
        }
    }

    #[test]
    fn other_types_are_left_to_candle() {
        let on_device = |t: Tensor, dtype| t.to_dtype(dtype).unwrap().to_device(device()).unwrap();
        let weight = |dtype| on_device(randn(1, (8, 8, 3, 3)), dtype);
        let bias = |dtype| on_device(randn(2, 8), dtype);
        assert!(Cuda.pack_conv(&weight(DType::F16), &bias(DType::F16)).unwrap().is_none());
        let packed = Cuda.pack_conv(&weight(DType::F32), &bias(DType::F32)).unwrap().unwrap();
        let x = on_device(randn(3, (4, 4, 8)), DType::BF16);
        assert!(packed.forward(&x, ConvInput::Plain, None).unwrap().is_none());
        assert!(packed.forward_stride2(&x).unwrap().is_none());
    }

    #[test]
    fn blocks_have_few_channels_in_vain() {
        let outs = [3, 32, 96, 128, 192, 256, 384, 512, 40].map(outs_of_a_block);
        assert_eq!(outs, [32, 32, 96, 128, 96, 128, 128, 128, 32]);
    }
}
