//! 3x3 convolutions of `[h, w, c]` pictures, fused with the operations right before and after them in a VAE.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor, bail};

use crate::GroupNorm;
use crate::backend::PackedConv;
use crate::devices::backend;
use crate::norm::channel_norm_silu;
use crate::operands::ConvInput;

/// A 3x3 convolution with zero padding 1.
///
/// In host memory the weights are packed in f32.
#[derive(Clone, Debug)]
pub struct Conv3x3(ConvWeights);

#[derive(Clone, Debug)]
enum ConvWeights {
    /// `weight` is `[out, in, 3, 3]`.
    Plain {
        weight: Tensor,
        bias: Tensor,
    },
    Packed(Arc<dyn PackedConv>),
}

impl Conv3x3 {
    /// Makes a convolution of `[out, in, 3, 3]` weights and an `[out]` bias.
    ///
    /// # Errors
    /// A shape does not fit.
    pub fn new(weight: &Tensor, bias: &Tensor) -> Result<Self> {
        let (out_channels, in_channels, height, width) = weight.dims4()?;
        if (height, width) != (3, 3) || in_channels == 0 {
            bail!("weight must be [{out_channels}, {in_channels}, 3, 3], not empty. Given: {:?}", weight.dims())
        }
        if bias.dims() != [out_channels] {
            bail!("bias must be [{out_channels}]. Given: {:?}", bias.dims())
        }
        Ok(Conv3x3(match backend(weight.device()).pack_conv(weight, bias)? {
            Some(packed) => ConvWeights::Packed(packed.into()),
            None => ConvWeights::Plain { weight: weight.contiguous()?, bias: bias.contiguous()? },
        }))
    }

    /// `[h, w, in]` to `[h, w, out]`.
    ///
    /// # Errors
    /// `x` has another number of channels.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.check(x)?;
        if let Some(out) = self.packed(x, ConvInput::Plain, None)? {
            return Ok(out);
        }
        self.reference(x, 1, 1)
    }

    /// `conv(silu(channel_norm(x, gamma))) + residual`: half of a residual block.
    /// `residual` is `[h, w, out]`.
    ///
    /// # Errors
    /// A shape does not fit.
    pub fn forward_norm_silu(&self, x: &Tensor, gamma: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        self.check(x)?;
        self.check_residual(x, residual)?;
        if gamma.dims() != [self.in_channels()] {
            bail!("gamma must be [{}]. Given: {:?}", self.in_channels(), gamma.dims())
        }
        if let Some(out) = self.packed(x, ConvInput::NormSilu(gamma), residual)? {
            return Ok(out);
        }
        let convolved = self.forward(&channel_norm_silu(x, gamma)?)?;
        match residual {
            Some(residual) => convolved + residual,
            None => Ok(convolved),
        }
    }

    /// `conv(silu(norm(x))) + residual`: half of a residual block. `residual` is `[h, w, out]`.
    ///
    /// # Errors
    /// A shape does not fit.
    pub fn forward_group_norm_silu(&self, x: &Tensor, norm: &GroupNorm, residual: Option<&Tensor>) -> Result<Tensor> {
        self.check(x)?;
        self.check_residual(x, residual)?;
        norm.check(x)?;
        if let Some(out) = self.packed(x, ConvInput::GroupNormSilu(norm), residual)? {
            return Ok(out);
        }
        let convolved = self.forward(&norm.forward_silu(x)?)?;
        match residual {
            Some(residual) => convolved + residual,
            None => Ok(convolved),
        }
    }

    /// Doubles both sides by nearest-neighbour upsampling, then convolves: `[h, w, in]` to `[2h, 2w, out]`.
    ///
    /// # Errors
    /// `x` has another number of channels.
    pub fn forward_upsampled(&self, x: &Tensor) -> Result<Tensor> {
        self.check(x)?;
        if let Some(out) = self.packed(x, ConvInput::Upsampled, None)? {
            return Ok(out);
        }
        let (height, width, channels) = x.dims3()?;
        let twice = x.reshape((height, 1, width, 1, channels))?.broadcast_as((height, 2, width, 2, channels))?;
        self.reference(&twice.reshape((2 * height, 2 * width, channels))?, 1, 1)
    }

    /// Convolution with stride 2, padded by one at the right and the bottom only: `[h, w, in]` to `[h / 2, w / 2,
    /// out]`, rounded down.
    ///
    /// # Errors
    /// `x` has another number of channels, or a side of one pixel.
    pub fn forward_stride2(&self, x: &Tensor) -> Result<Tensor> {
        self.check(x)?;
        let (height, width, _) = x.dims3()?;
        if height < 2 || width < 2 {
            bail!("x must have sides of at least 2 pixels. Given: {height}, {width}")
        }
        if let ConvWeights::Packed(packed) = &self.0
            && let Some(out) = packed.forward_stride2(x)?
        {
            return Ok(out);
        }
        self.reference(&x.pad_with_zeros(0, 0, 1)?.pad_with_zeros(1, 0, 1)?, 0, 2)
    }

    fn in_channels(&self) -> usize {
        match &self.0 {
            ConvWeights::Plain { weight, .. } => weight.dims()[1],
            ConvWeights::Packed(packed) => packed.in_channels(),
        }
    }

    fn out_channels(&self) -> usize {
        match &self.0 {
            ConvWeights::Plain { weight, .. } => weight.dims()[0],
            ConvWeights::Packed(packed) => packed.out_channels(),
        }
    }

    fn check(&self, x: &Tensor) -> Result<()> {
        let (height, width, channels) = x.dims3()?;
        if channels != self.in_channels() || height == 0 || width == 0 {
            bail!("x must have {} channels and not be empty. Given: {:?}", self.in_channels(), x.dims())
        }
        Ok(())
    }

    fn check_residual(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<()> {
        let (height, width, _) = x.dims3()?;
        let expected = [height, width, self.out_channels()];
        match residual {
            Some(residual) if residual.dims() != expected => {
                bail!("residual must be {expected:?}. Given: {:?}", residual.dims())
            }
            _ => Ok(()),
        }
    }

    /// The backend's convolution; `None` if the reference has to compute it.
    fn packed(&self, x: &Tensor, input: ConvInput<'_>, residual: Option<&Tensor>) -> Result<Option<Tensor>> {
        match &self.0 {
            ConvWeights::Packed(packed) => packed.forward(x, input, residual),
            ConvWeights::Plain { .. } => Ok(None),
        }
    }

    fn reference(&self, x: &Tensor, padding: usize, stride: usize) -> Result<Tensor> {
        let (weight, bias) = match &self.0 {
            ConvWeights::Plain { weight, bias } => (weight.clone(), bias.clone()),
            ConvWeights::Packed(packed) => packed.unpack()?,
        };
        // candle's convolution of half-precision pictures exists on devices only.
        let dtype = if x.device().is_cpu() { DType::F32 } else { x.dtype() };
        let planes = x.to_dtype(dtype)?.permute((2, 0, 1))?.unsqueeze(0)?.contiguous()?;
        let convolved = planes.conv2d(&weight.to_dtype(dtype)?, padding, stride, 1, 1)?;
        let pixels = convolved.squeeze(0)?.permute((1, 2, 0))?.contiguous()?;
        pixels.broadcast_add(&bias.to_dtype(dtype)?)?.to_dtype(x.dtype())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::testing::{assert_close, numbers, on_each_set, randn};
    use crate::with_reference;

    /// Winograd's error is ten times a direct convolution's.
    const TOLERANCE: f32 = 4e-5;

    struct Case {
        fast: Conv3x3,
        plain: Conv3x3,
        x: Tensor,
        gamma: Tensor,
        norm: GroupNorm,
        residual: Tensor,
        name: String,
    }

    impl Case {
        fn new((height, width): (usize, usize), in_channels: usize, out_channels: usize) -> Self {
            let weight = (randn(1, (out_channels, in_channels, 3, 3)) * 0.2).unwrap();
            let bias = randn(2, out_channels);
            let new = || Conv3x3::new(&weight, &bias).unwrap();
            Case {
                fast: new(),
                plain: with_reference(new),
                x: randn(3, (height, width, in_channels)),
                gamma: randn(4, in_channels),
                norm: GroupNorm::new(&randn(6, in_channels), &randn(7, in_channels), 1, 1e-6).unwrap(),
                residual: randn(5, (height, width, out_channels)),
                name: format!("{height}x{width} {in_channels}->{out_channels}"),
            }
        }

        fn check(&self, name: &str, op: impl Fn(&Conv3x3) -> Result<Tensor>) {
            let name = format!("{name} {}", self.name);
            assert_close(&name, &op(&self.fast).unwrap(), &op(&self.plain).unwrap(), TOLERANCE);
        }
    }

    #[test]
    fn kernels_agree_with_candle() {
        on_each_set(|_| {
            // Direct (few input or output channels, with a last panel that is narrow or nearly full) and Winograd, with
            // sides that are multiples of 4 and sides that are not.
            for (size, in_channels, out_channels) in [
                ((1, 1), 8, 16),
                ((2, 3), 16, 24),
                ((9, 7), 24, 40),
                ((16, 16), 16, 20),
                ((35, 21), 8, 100),
                ((13, 50), 3, 32),
                ((12, 18), 40, 3),
                ((6, 5), 520, 16),
                ((19, 21), 8, 8),
                ((5, 9), 3, 24),
                ((4, 8), 12, 29),
            ] {
                let case = Case::new(size, in_channels, out_channels);
                case.check("forward", |conv| conv.forward(&case.x));
                case.check("upsampled", |conv| conv.forward_upsampled(&case.x));
                case.check("norm", |conv| conv.forward_norm_silu(&case.x, &case.gamma, None));
                case.check("norm + residual", |conv| {
                    conv.forward_norm_silu(&case.x, &case.gamma, Some(&case.residual))
                });
                case.check("group norm", |conv| conv.forward_group_norm_silu(&case.x, &case.norm, None));
                case.check("group norm + residual", |conv| {
                    conv.forward_group_norm_silu(&case.x, &case.norm, Some(&case.residual))
                });
                if size.0 > 1 {
                    case.check("stride 2", |conv| conv.forward_stride2(&case.x));
                }
            }
        });
    }

    /// A weight of ones counts the pixels under it.
    #[test]
    fn borders_are_zero() {
        on_each_set(|_| {
            let ones = |channels| Tensor::ones((channels, 8, 3, 3), DType::F32, &Device::Cpu).unwrap();
            let x = Tensor::ones((4, 4, 8), DType::F32, &Device::Cpu).unwrap();
            for channels in [1, 16] {
                let conv =
                    Conv3x3::new(&ones(channels), &Tensor::zeros(channels, DType::F32, &Device::Cpu).unwrap()).unwrap();
                let first =
                    |t: Tensor| numbers(&t.narrow(2, 0, 1).unwrap()).iter().map(|x| x.round()).collect::<Vec<_>>();
                let both = || (first(conv.forward(&x).unwrap()), first(conv.forward_stride2(&x).unwrap()));
                let (c, e, m) = (32.0, 48.0, 72.0);
                let whole = vec![c, e, e, c, e, m, m, e, e, m, m, e, c, e, e, c];
                for given in [both(), with_reference(both)] {
                    assert_eq!(given, (whole.clone(), vec![m, e, e, c]));
                }
            }
        });
    }

    #[test]
    fn packed_weights_serve_half_precision_and_the_reference() {
        on_each_set(|_| {
            let case = Case::new((6, 5), 16, 20);
            let half = case.x.to_dtype(DType::BF16).unwrap();
            let gamma = case.gamma.to_dtype(DType::BF16).unwrap();
            let given = case.fast.forward_norm_silu(&half, &gamma, None).unwrap();
            assert_eq!(given.dtype(), DType::BF16);
            let expected = case.fast.forward_norm_silu(&case.x, &case.gamma, None).unwrap();
            assert_close("bf16", &given, &expected, 2e-2);
            let plain = case.plain.forward_norm_silu(&half, &gamma, None).unwrap();
            assert_close("bf16 reference", &plain, &expected, 2e-2);
            let unpacked = with_reference(|| case.fast.forward(&case.x)).unwrap();
            assert_eq!(numbers(&unpacked), numbers(&case.plain.forward(&case.x).unwrap()));
        });
    }

    #[test]
    fn errors_name_what_was_given() {
        let case = Case::new((2, 2), 8, 16);
        let message = case.fast.forward(&randn(1, (2, 2, 9))).unwrap_err().to_string();
        assert!(message.starts_with("x must have 8 channels and not be empty. Given: [2, 2, 9]"), "{message}");
        let residual = randn(1, (2, 2, 15));
        let message = case.fast.forward_norm_silu(&case.x, &case.gamma, Some(&residual)).unwrap_err().to_string();
        assert!(message.starts_with("residual must be [2, 2, 16]. Given: [2, 2, 15]"), "{message}");
    }
}
