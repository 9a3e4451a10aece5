//! Measures of a cached picture against the same picture made without a cache.

use cache::EQUAL;
use diffusion::{RgbImage, latent_error, psnr, ssim};

/// A picture and the latents it was decoded from.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) image: RgbImage,
    pub(super) latents: Option<Vec<f32>>,
}

/// Similarity of a cached picture to the uncached one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct AuditMeasure {
    /// PSNR, in dB.
    pub(crate) psnr: f64,
    /// `None` if the picture is smaller than the SSIM window.
    pub(crate) ssim: Option<f64>,
    /// Relative error of the latents. `None` if they are not available.
    pub(crate) latent_error: Option<f64>,
}

impl AuditMeasure {
    /// Compares two pictures. It takes some 100 ms a megapixel, so it must not run on the event loop. `None` if their
    /// sizes differ.
    pub(super) fn of(uncached: &Sample, cached: &Sample) -> Option<AuditMeasure> {
        (uncached.image.size == cached.image.size).then(|| AuditMeasure {
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
        let measured = AuditMeasure::of(&uncached, &sample(16, 101, Some(vec![3.0, 3.0]))).unwrap();
        assert!((measured.psnr - 48.13).abs() < 0.01 && measured.ssim.unwrap() > 0.999, "{measured:?}");
        assert_eq!(measured.latent_error, Some(0.2));
        let equal = AuditMeasure::of(&uncached, &sample(16, 100, None)).unwrap();
        assert_eq!((equal.psnr, equal.latent_error), (EQUAL, None));
        let small = AuditMeasure::of(&sample(8, 100, None), &sample(8, 90, None)).unwrap();
        assert_eq!(small.ssim, None, "the window is larger");
        assert_eq!(AuditMeasure::of(&uncached, &sample(8, 100, None)), None);
    }
}
