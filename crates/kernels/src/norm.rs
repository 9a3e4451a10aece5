//! Normalisations over a token's or a pixel's features.

use candle_core::{D, DType, Result, Tensor, bail};

use crate::RowLayout;

/// `layer_norm(x) * (1 + scale[row]) + shift[row]`, the norm without weights: what a block
/// does with the outputs of its modulation.
///
/// `x` is `[tokens, dim]`, `shift` and `scale` are `[num_rows, dim]`, perhaps views of the
/// `[num_rows, 6 * dim]` that the modulation made.
///
/// # Errors
/// A shape does not fit.
pub fn modulated_layer_norm(x: &Tensor, shift: &Tensor, scale: &Tensor, rows: &RowLayout, eps: f64) -> Result<Tensor> {
    rows.check("shift", x, shift)?;
    rows.check("scale", x, scale)?;
    modulated_layer_norm_reference(x, shift, scale, rows, eps)
}

/// `x / sqrt(mean(x^2) + eps) * weight` over the last dimension, in f32.
///
/// # Errors
/// `weight` does not have the last dimension of `x`.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    check_weight("weight", x, weight)?;
    rms_norm_reference(x, weight, eps)
}

/// `x / max(||x||, 1e-12) * sqrt(c) * gamma` over the channels of an `[h, w, c]` picture, in
/// f32: the norm of the Qwen-Image VAE,
/// <https://github.com/huggingface/diffusers/blob/v0.37.0/src/diffusers/models/autoencoders/autoencoder_kl_qwenimage.py#L104>.
///
/// # Errors
/// `gamma` does not have one element a channel.
pub fn channel_norm(x: &Tensor, gamma: &Tensor) -> Result<Tensor> {
    check_weight("gamma", x, gamma)?;
    channel_norm_reference(x, gamma)
}

/// The smallest length that `channel_norm` divides by.
pub(crate) const MIN_LENGTH: f64 = 1e-12;

fn check_weight(name: &str, x: &Tensor, weight: &Tensor) -> Result<()> {
    let dim = x.dim(D::Minus1)?;
    if weight.dims() != [dim] {
        bail!("{name} must be [{dim}], as the last dimension of x. Given: {:?}", weight.dims())
    }
    Ok(())
}

fn modulated_layer_norm_reference(
    x: &Tensor,
    shift: &Tensor,
    scale: &Tensor,
    rows: &RowLayout,
    eps: f64,
) -> Result<Tensor> {
    let (ones, zeros) =
        (x.narrow(0, 0, 1)?.flatten_all()?.ones_like()?, x.narrow(0, 0, 1)?.flatten_all()?.zeros_like()?);
    let normed = candle_nn::ops::layer_norm(&x.contiguous()?, &ones, &zeros, eps as f32)?;
    let scale = rows.expand(&(scale.to_dtype(x.dtype())? + 1.0)?)?;
    let shift = rows.expand(&shift.to_dtype(x.dtype())?)?;
    (normed * scale)? + shift
}

pub(crate) fn rms_norm_reference(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let (wide, weight) = (x.to_dtype(DType::F32)?.contiguous()?, weight.to_dtype(DType::F32)?);
    candle_nn::ops::rms_norm(&wide, &weight, eps as f32)?.to_dtype(x.dtype())
}

fn channel_norm_reference(x: &Tensor, gamma: &Tensor) -> Result<Tensor> {
    let (wide, gamma) = (x.to_dtype(DType::F32)?, gamma.to_dtype(DType::F32)?);
    let channels = x.dim(D::Minus1)? as f64;
    let length = wide.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?.maximum(MIN_LENGTH)?;
    wide.broadcast_div(&length)?.broadcast_mul(&(gamma * channels.sqrt())?)?.to_dtype(x.dtype())
}
