//! 3x3 convolutions of `[h, w, c]` pictures, with what a VAE does right before and after.

use candle_core::{Result, Tensor, bail};

use crate::channel_norm;

/// A 3x3 convolution with zero padding 1.
#[derive(Clone, Debug)]
pub struct Conv3x3 {
    weight: Tensor,
    bias: Tensor,
}

impl Conv3x3 {
    /// From `[out, in, 3, 3]` weights and an `[out]` bias.
    ///
    /// # Errors
    /// A shape does not fit.
    pub fn new(weight: &Tensor, bias: &Tensor) -> Result<Self> {
        let (out_channels, in_channels, height, width) = weight.dims4()?;
        if (height, width) != (3, 3) {
            bail!("weight must be [{out_channels}, {in_channels}, 3, 3]. Given: {:?}", weight.dims())
        }
        if bias.dims() != [out_channels] {
            bail!("bias must be [{out_channels}]. Given: {:?}", bias.dims())
        }
        Ok(Conv3x3 { weight: weight.contiguous()?, bias: bias.contiguous()? })
    }

    /// `[h, w, in]` to `[h, w, out]`.
    ///
    /// # Errors
    /// `x` has another number of channels.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.check(x)?;
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
        let convolved = self.reference(&channel_norm(x, gamma)?.silu()?, 1, 1)?;
        match residual {
            Some(residual) => convolved + residual,
            None => Ok(convolved),
        }
    }

    /// Repeats every pixel twice both ways, then convolves: `[h, w, in]` to `[2h, 2w, out]`.
    ///
    /// # Errors
    /// `x` has another number of channels.
    pub fn forward_upsampled(&self, x: &Tensor) -> Result<Tensor> {
        self.check(x)?;
        let (height, width, channels) = x.dims3()?;
        let twice = x.reshape((height, 1, width, 1, channels))?.broadcast_as((height, 2, width, 2, channels))?;
        self.reference(&twice.reshape((2 * height, 2 * width, channels))?, 1, 1)
    }

    /// Every second pixel of the convolution padded by one at the right and the bottom only:
    /// `[h, w, in]` to `[h / 2, w / 2, out]`, rounded down.
    ///
    /// # Errors
    /// `x` has another number of channels.
    pub fn forward_stride2(&self, x: &Tensor) -> Result<Tensor> {
        self.check(x)?;
        self.reference(&x.pad_with_zeros(0, 0, 1)?.pad_with_zeros(1, 0, 1)?, 0, 2)
    }

    fn check(&self, x: &Tensor) -> Result<()> {
        let ((_, _, channels), expected) = (x.dims3()?, self.weight.dim(1)?);
        if channels != expected {
            bail!("x must have {expected} channels. Given: {channels}")
        }
        Ok(())
    }

    fn check_residual(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<()> {
        let (height, width, _) = x.dims3()?;
        let expected = [height, width, self.weight.dim(0)?];
        match residual {
            Some(residual) if residual.dims() != expected => {
                bail!("residual must be {expected:?}. Given: {:?}", residual.dims())
            }
            _ => Ok(()),
        }
    }

    fn reference(&self, x: &Tensor, padding: usize, stride: usize) -> Result<Tensor> {
        let planes = x.permute((2, 0, 1))?.unsqueeze(0)?.contiguous()?;
        let convolved = planes.conv2d(&self.weight.to_dtype(x.dtype())?, padding, stride, 1, 1)?;
        let pixels = convolved.squeeze(0)?.permute((1, 2, 0))?.contiguous()?;
        pixels.broadcast_add(&self.bias.to_dtype(x.dtype())?)
    }
}
