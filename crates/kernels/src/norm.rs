//! Norms over a token's or a pixel's features.

use candle_core::{D, DType, Result, Tensor, bail};

use crate::RowLayout;
use crate::devices::backend;

/// `layer_norm(x) * (1 + scale[row]) + shift[row]`, with a norm without weights: the modulation of a block's input.
///
/// `x` is `[tokens, dim]`. `shift` and `scale` are `[num_rows, dim]`, possibly views of the modulation's `[num_rows, 6
/// * dim]` output.
///
/// # Errors
/// A shape does not fit.
pub fn modulated_layer_norm(x: &Tensor, shift: &Tensor, scale: &Tensor, rows: &RowLayout, eps: f64) -> Result<Tensor> {
    rows.check("shift", x, shift)?;
    rows.check("scale", x, scale)?;
    match backend(x.device()).modulated_layer_norm(x, shift, scale, rows, eps)? {
        Some(normed) => Ok(normed),
        None => modulated_layer_norm_reference(x, shift, scale, rows, eps),
    }
}

/// `x / sqrt(mean(x^2) + eps) * weight` over the last dimension, in f32.
///
/// # Errors
/// `weight` does not have the last dimension of `x`.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    check_weight("weight", x, weight)?;
    match backend(x.device()).rms_norm(x, weight, eps)? {
        Some(normed) => Ok(normed),
        None => rms_norm_reference(x, weight, eps),
    }
}

/// `x / max(||x||, 1e-12) * sqrt(c) * gamma` over the channels of an `[h, w, c]` picture, in
/// f32: the norm of the Qwen-Image VAE,
/// <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/models/autoencoders/autoencoder_kl_qwenimage.py#L85>.
///
/// # Errors
/// `gamma` does not have one element per channel.
pub fn channel_norm(x: &Tensor, gamma: &Tensor) -> Result<Tensor> {
    check_weight("gamma", x, gamma)?;
    match backend(x.device()).channel_norm(x, gamma, false)? {
        Some(normed) => Ok(normed),
        None => channel_norm_reference(x, gamma),
    }
}

/// `silu(channel_norm(x, gamma))` of checked operands.
pub(crate) fn channel_norm_silu(x: &Tensor, gamma: &Tensor) -> Result<Tensor> {
    match backend(x.device()).channel_norm(x, gamma, true)? {
        Some(activated) => Ok(activated),
        None => channel_norm(x, gamma)?.silu(),
    }
}

/// The smallest length that `channel_norm` divides by.
const MIN_LENGTH: f64 = 1e-12;

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
    let ones = Tensor::ones(x.dim(1)?, x.dtype(), x.device())?;
    let normed = candle_nn::ops::layer_norm(&x.contiguous()?, &ones, &ones.zeros_like()?, eps as f32)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, numbers, on_each_set, randn};
    use crate::with_reference;

    #[test]
    fn kernels_agree_with_candle() {
        on_each_set(|_| {
            for (tokens, dim) in [(1, 8), (7, 40), (13, 192), (101, 640), (5, 12)] {
                let x = ((randn(1, (tokens, dim)) * 3.0).unwrap() + 1.5).unwrap();
                let modulation = randn(2, (3, 6 * dim));
                let [shift, scale] = [0, 1].map(|i| modulation.narrow(1, i * dim, dim).unwrap());
                let rows = RowLayout::new(&[tokens / 2, 0, tokens - tokens / 2]);
                let modulated = || modulated_layer_norm(&x, &shift, &scale, &rows, 1e-6).unwrap();
                let weight = randn(3, dim);
                let rms = || rms_norm(&x, &weight, 1e-6).unwrap();
                let pixels = x.reshape((tokens, 1, dim)).unwrap();
                let channel = || channel_norm(&pixels, &weight).unwrap();
                let name = |op| format!("{op} {tokens}x{dim}");
                assert_close(&name("layer norm"), &modulated(), &with_reference(modulated), 2e-6);
                assert_close(&name("rms norm"), &rms(), &with_reference(rms), 1e-6);
                assert_close(&name("channel norm"), &channel(), &with_reference(channel), 1e-6);
            }
        });
    }

    /// Expected numbers by Python:
    /// `x = [i * i for i in range(8)]; m = sum(x) / 8; v = sum((a - m) ** 2 for a in x) / 8`,
    /// `(x[5] - m) / sqrt(v + .25) * 1.5 + 2`, `x[5] / sqrt(sum(a * a for a in x) / 8 + .25) * 5`
    /// and `x[5] / sqrt(sum(a * a for a in x)) * 8 ** .5`.
    #[test]
    fn norms_are_their_formulas() {
        on_each_set(|_| {
            let cpu = &candle_core::Device::Cpu;
            let x = Tensor::from_vec((0..8).map(|i| (i * i) as f32).collect(), (1, 8), cpu).unwrap();
            let (shift, scale) = (Tensor::full(2f32, (1, 8), cpu).unwrap(), Tensor::full(0.5f32, (1, 8), cpu).unwrap());
            let weight = Tensor::arange(0f32, 8.0, cpu).unwrap();
            let all = || {
                let modulated = modulated_layer_norm(&x, &shift, &scale, &RowLayout::new(&[1]), 0.25).unwrap();
                let rms = rms_norm(&x, &weight, 0.25).unwrap();
                let channel = channel_norm(&x.unsqueeze(0).unwrap(), &weight.ones_like().unwrap()).unwrap();
                [modulated, rms, channel].map(|t| numbers(&t)[5])
            };
            for given in [all(), with_reference(all)] {
                for (given, expected) in given.iter().zip([2.674_124_2, 5.169_218_6, 1.034_064_8]) {
                    assert!((given - expected).abs() < 1e-5, "{given} {expected}");
                }
            }
        });
    }

    #[test]
    fn a_pixel_without_length_stays_zero() {
        on_each_set(|_| {
            let (x, gamma) = (randn(1, (2, 3, 8)).zeros_like().unwrap(), randn(2, 8));
            for norm in [channel_norm(&x, &gamma), with_reference(|| channel_norm(&x, &gamma))] {
                assert_eq!(numbers(&norm.unwrap()), [0.0; 48]);
            }
        });
    }

    #[test]
    fn a_row_does_not_depend_on_its_company() {
        on_each_set(|_| {
            let (x, modulation) = (randn(1, (400, 64)), randn(2, (2, 64)));
            let rows = RowLayout::new(&[147, 253]);
            let together = modulated_layer_norm(&x, &modulation, &modulation, &rows, 1e-6).unwrap();
            let (x, modulation) = (x.narrow(0, 147, 253).unwrap(), modulation.narrow(0, 1, 1).unwrap());
            let alone = modulated_layer_norm(&x, &modulation, &modulation, &RowLayout::new(&[253]), 1e-6).unwrap();
            assert_eq!(numbers(&together.narrow(0, 147, 253).unwrap()), numbers(&alone));
        });
    }

    #[test]
    fn half_precision_stays_so() {
        on_each_set(|_| {
            let x = randn(1, (4, 16));
            let (half, weight) = (x.to_dtype(DType::BF16).unwrap(), randn(2, 16));
            let normed = rms_norm(&half, &weight, 1e-6).unwrap();
            assert_eq!(normed.dtype(), DType::BF16);
            assert_close("rms norm bf16", &normed, &rms_norm(&x, &weight, 1e-6).unwrap(), 1e-2);
        });
    }
}
