//! Group norm of `[h, w, c]` pictures, alone or with the SiLU that follows it in a VAE.

use candle_core::{DType, Result, Tensor, bail};

use crate::GroupNorm;
use crate::devices::backend;

impl GroupNorm {
    /// Makes a norm of a `[c]` weight and bias of any float type.
    ///
    /// # Errors
    /// A shape does not fit, or the groups do not divide the channels.
    pub fn new(weight: &Tensor, bias: &Tensor, num_groups: usize, eps: f64) -> Result<Self> {
        let channels = weight.dims1()?;
        if bias.dims() != [channels] {
            bail!("bias must be [{channels}]. Given: {:?}", bias.dims())
        }
        if num_groups == 0 || channels == 0 || !channels.is_multiple_of(num_groups) {
            bail!("num_groups must divide the {channels} channels. Given: {num_groups}")
        }
        let wide = |t: &Tensor| t.to_dtype(DType::F32)?.contiguous();
        Ok(GroupNorm { weight: wide(weight)?, bias: wide(bias)?, num_groups, eps })
    }

    /// Normalises an `[h, w, c]` picture.
    ///
    /// # Errors
    /// `x` has another number of channels, or no pixel.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.normed(x, false)
    }

    /// `silu(forward(x))`
    ///
    /// # Errors
    /// `x` has another number of channels, or no pixel.
    pub fn forward_silu(&self, x: &Tensor) -> Result<Tensor> {
        self.normed(x, true)
    }

    fn normed(&self, x: &Tensor, silu: bool) -> Result<Tensor> {
        self.check(x)?;
        let x = x.contiguous()?;
        if let Some(normed) = backend(x.device()).group_norm(&x, self, silu)? {
            return Ok(normed);
        }
        let normed = self.reference(&x)?;
        if silu { normed.silu() } else { Ok(normed) }
    }

    fn channels(&self) -> usize {
        self.weight.elem_count()
    }

    /// Checks that `x` is a picture with the norm's channels.
    pub(crate) fn check(&self, x: &Tensor) -> Result<()> {
        let (height, width, channels) = x.dims3()?;
        if channels != self.channels() || height == 0 || width == 0 {
            bail!("x must have {} channels and not be empty. Given: {:?}", self.channels(), x.dims())
        }
        Ok(())
    }

    fn reference(&self, x: &Tensor) -> Result<Tensor> {
        let (height, width, channels) = x.dims3()?;
        let groups = (height, width, self.num_groups, channels / self.num_groups);
        let wide = x.to_dtype(DType::F32)?.reshape(groups)?;
        // Row by row first: one sum of a whole picture in f32 would lose digits.
        let mean = |t: &Tensor| t.mean_keepdim((1, 3))?.mean_keepdim(0);
        let centred = wide.broadcast_sub(&mean(&wide)?)?;
        let deviation = (mean(&centred.sqr()?)? + self.eps)?.sqrt()?;
        let normed = centred.broadcast_div(&deviation)?.reshape((height, width, channels))?;
        normed.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)?.to_dtype(x.dtype())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, numbers, on_each_set, randn};
    use crate::with_reference;

    fn norm(channels: usize, num_groups: usize) -> GroupNorm {
        GroupNorm::new(&randn(1, channels), &randn(2, channels), num_groups, 1e-6).unwrap()
    }

    #[test]
    fn kernels_agree_with_candle() {
        on_each_set(|_| {
            // One pixel, groups of one channel, one group, channels not a multiple of 8, more than a block of pixels.
            for (height, width, channels, num_groups) in [
                (1, 1, 8, 2),
                (1, 1, 8, 8),
                (5, 3, 16, 4),
                (7, 9, 24, 24),
                (4, 4, 12, 3),
                (40, 33, 40, 1),
                (23, 31, 96, 32),
                (64, 64, 136, 17),
            ] {
                let norm = norm(channels, num_groups);
                // Each channel has a mean of its own, far from 0.
                let means = (randn(3, channels) * 5.0).unwrap();
                let x = randn(4, (height, width, channels)).broadcast_add(&means).unwrap();
                let name = format!("{height}x{width}x{channels}, {num_groups} groups");
                let (plain, silu) = (|| norm.forward(&x).unwrap(), || norm.forward_silu(&x).unwrap());
                assert_close(&format!("group norm {name}"), &plain(), &with_reference(plain), 2e-6);
                assert_close(&format!("group norm + silu {name}"), &silu(), &with_reference(silu), 2e-6);
            }
        });
    }

    /// Expected numbers by Python: `x = [i * i for i in range(32)]`, group 1 of 2 of pixels of 8 channels is
    /// `g = [a for i, a in enumerate(x) if i % 8 > 3]; m = sum(g) / 16; v = sum((a - m) ** 2 for a in g) / 16`,
    /// `y = (x[13] - m) / sqrt(v + .25) * 5 + 2` and `y / (1 + exp(-y))`.
    #[test]
    fn group_norm_is_its_formula() {
        on_each_set(|_| {
            let cpu = &candle_core::Device::Cpu;
            let x = Tensor::from_vec((0..32).map(|i| (i * i) as f32).collect(), (2, 2, 8), cpu).unwrap();
            let (weight, bias) = (Tensor::arange(0f32, 8.0, cpu).unwrap(), Tensor::full(2f32, 8, cpu).unwrap());
            let norm = GroupNorm::new(&weight, &bias, 2, 0.25).unwrap();
            let both = || [norm.forward(&x).unwrap(), norm.forward_silu(&x).unwrap()].map(|t| numbers(&t)[13]);
            for given in [both(), with_reference(both)] {
                for (given, expected) in given.iter().zip([-1.387_235, -0.277_238_3]) {
                    assert!((given - expected).abs() < 1e-5, "{given} {expected}");
                }
            }
        });
    }

    /// A group of equal numbers becomes its bias, however large they are.
    #[test]
    fn a_flat_picture_becomes_the_bias() {
        on_each_set(|_| {
            let norm = norm(16, 4);
            let x = Tensor::full(1234.567f32, (20, 20, 16), &candle_core::Device::Cpu).unwrap();
            let bias = norm.bias.broadcast_as((20, 20, 16)).unwrap();
            assert_eq!(numbers(&norm.forward(&x).unwrap()), numbers(&bias));
        });
    }

    /// In f32 the mean of the squares minus the square of the mean would be off by a third here.
    #[test]
    fn a_variance_far_from_zero_keeps_its_digits() {
        on_each_set(|_| {
            let norm = norm(8, 2);
            let x = randn(5, (90, 90, 8));
            // Multiples of 2^-10, which stay exact at 1000.
            let x = ((x * 1024.0).unwrap().round().unwrap() / 1024.0).unwrap();
            let far = norm.forward(&(&x + 1000.0).unwrap()).unwrap();
            assert_close("at 1000", &far, &norm.forward(&x).unwrap(), 1e-4);
        });
    }

    #[test]
    fn half_precision_stays_so() {
        on_each_set(|_| {
            let norm = norm(16, 4);
            let x = randn(1, (4, 5, 16));
            let normed = norm.forward_silu(&x.to_dtype(DType::BF16).unwrap()).unwrap();
            assert_eq!(normed.dtype(), DType::BF16);
            assert_close("group norm bf16", &normed, &norm.forward_silu(&x).unwrap(), 2e-2);
        });
    }

    #[test]
    fn errors_name_what_was_given() {
        let message = GroupNorm::new(&randn(1, 12), &randn(2, 12), 5, 1e-6).unwrap_err().to_string();
        assert!(message.starts_with("num_groups must divide the 12 channels. Given: 5"), "{message}");
        let message = norm(16, 4).forward(&randn(1, (2, 2, 8))).unwrap_err().to_string();
        assert!(message.starts_with("x must have 16 channels and not be empty. Given: [2, 2, 8]"), "{message}");
    }
}
