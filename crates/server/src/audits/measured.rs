//! A picture beside the same one made without a cache, in numbers.

use cache::EQUAL;
use diffusion::{RgbImage, latent_error, psnr, ssim};

/// A picture and what it was decoded from.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) image: RgbImage,
    pub(super) latents: Option<Vec<f32>>,
}

/// How like a picture is to the uncached one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Measured {
    /// In dB.
    pub(crate) psnr: f64,
    /// `None` of a picture that is smaller than the window.
    pub(crate) ssim: Option<f64>,
    /// The relative error of the latents. `None` where they could not be had.
    pub(crate) latent_error: Option<f64>,
}

impl Measured {
    /// Takes some 100 ms a megapixel: not for the event loop. `None` where the pictures are not of one size.
    pub(super) fn of(uncached: &Sample, cached: &Sample) -> Option<Measured> {
        (uncached.image.size == cached.image.size).then(|| Measured {
            psnr: psnr(&uncached.image, &cached.image).unwrap_or(EQUAL).min(EQUAL),
            ssim: ssim(&uncached.image, &cached.image).ok(),
            latent_error: uncached
                .latents
                .as_ref()
                .zip(cached.latents.as_ref())
                .and_then(|(uncached, cached)| latent_error(uncached, cached)),
        })
    }
}

#[cfg(test)]
mod tests {
    use diffusion::ImageSize;

    use super::*;

    fn sample(side: usize, byte: u8, latents: Option<Vec<f32>>) -> Sample {
        let size = ImageSize { width: side, height: side };
        Sample { image: RgbImage { size, pixels: vec![byte; size.pixels() * 3] }, latents }
    }

    #[test]
    fn a_picture_is_measured_against_the_uncached_one() {
        let uncached = sample(16, 100, Some(vec![3.0, 4.0]));
        let measured = Measured::of(&uncached, &sample(16, 101, Some(vec![3.0, 3.0]))).unwrap();
        assert!((measured.psnr - 48.13).abs() < 0.01 && measured.ssim.unwrap() > 0.999, "{measured:?}");
        assert_eq!(measured.latent_error, Some(0.2));
        let equal = Measured::of(&uncached, &sample(16, 100, None)).unwrap();
        assert_eq!((equal.psnr, equal.latent_error), (EQUAL, None));
        let small = Measured::of(&sample(8, 100, None), &sample(8, 90, None)).unwrap();
        assert_eq!(small.ssim, None, "the window is larger");
        assert_eq!(Measured::of(&uncached, &sample(8, 100, None)), None);
    }
}
