//! Similarity of two pictures.
//!
//! SSIM is blazediff-ssim's: it is tested against the reference scripts of Wang et al. (dssim, the best known crate, is
//! under the AGPL, and image-compare sums its windows where the formula takes their mean). The same library has a
//! Python package, so that diffusers' pictures are measured with the same code.

use blazediff_ssim::{Plane, Rgba8, SsimError, SsimOptions};

use crate::RgbImage;

/// The peak signal-to-noise ratio in dB over all bytes of all channels; `None` if the pictures are equal.
pub fn psnr(reference: &RgbImage, picture: &RgbImage) -> Option<f64> {
    let mean = mean_square(reference, picture);
    (mean > 0.0).then(|| 10.0 * (255.0 * 255.0 / mean).log10())
}

/// The mean square error over all bytes of all channels.
pub fn mean_square(reference: &RgbImage, picture: &RgbImage) -> f64 {
    let differences = reference.pixels.iter().zip(&picture.pixels).map(|(&a, &b)| u64::from(a.abs_diff(b)));
    let squares: u64 = differences.map(|difference| difference * difference).sum();
    squares as f64 / reference.pixels.len() as f64
}

/// The mean structural similarity of the luma; 1 for equal pictures.
///
/// # Errors
/// A side is shorter than the window, 11 pixels.
pub fn ssim(reference: &RgbImage, picture: &RgbImage) -> Result<f64, SsimError> {
    Ok(blazediff_ssim::ssim(&luma(reference)?, &luma(picture)?, &SsimOptions::default())?.score)
}

/// The relative error of latents: the norm of the difference over the norm of the reference. `None` if the lengths
/// differ or the error is not finite.
pub fn latent_error(reference: &[f32], latents: &[f32]) -> Option<f64> {
    let length = |squares: f64| squares.sqrt();
    let squared = |value: f64| value * value;
    let difference = reference.iter().zip(latents).map(|(&a, &b)| squared(f64::from(a) - f64::from(b))).sum();
    let error = length(difference) / length(reference.iter().map(|&a| squared(f64::from(a))).sum());
    (reference.len() == latents.len() && error.is_finite()).then_some(error)
}

fn luma(image: &RgbImage) -> Result<Plane, SsimError> {
    let rgba: Vec<u8> = image.pixels.chunks_exact(3).flat_map(|rgb| [rgb[0], rgb[1], rgb[2], u8::MAX]).collect();
    Plane::from_rgba8(Rgba8::new(&rgba, image.size.width, image.size.height))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ImageSize;

    fn picture(byte: impl Fn(usize) -> u8) -> RgbImage {
        let size = ImageSize { width: 24, height: 16 };
        RgbImage { size, pixels: (0..size.pixels() * 3).map(byte).collect() }
    }

    #[test]
    fn a_byte_off_everywhere_is_48_db() {
        let grey = picture(|_| 100);
        // 20 log10 255; with every second byte changed, half the squared error.
        assert!((psnr(&grey, &picture(|_| 101)).unwrap() - 48.1308).abs() < 1e-4);
        assert!((psnr(&grey, &picture(|i| 100 - (i % 2) as u8)).unwrap() - 51.1411).abs() < 1e-4);
        assert_eq!(psnr(&grey, &grey), None);
    }

    #[test]
    fn structure_is_what_ssim_sees() {
        let stripes = picture(|i| if (i / 3) % 4 < 2 { 40 } else { 200 });
        let brighter = picture(|i| if (i / 3) % 4 < 2 { 50 } else { 210 });
        let blurred = picture(|_| 120);
        let like = |other| ssim(&stripes, other).unwrap();
        assert!((like(&stripes) - 1.0).abs() < 1e-6);
        assert!(like(&brighter) > 0.95, "{}", like(&brighter));
        assert!(like(&blurred) < 0.1, "{}", like(&blurred));
    }

    #[test]
    fn latents_are_off_by_a_part_of_their_length() {
        assert_eq!(latent_error(&[3.0, 4.0], &[3.0, 4.0]), Some(0.0));
        assert_eq!(latent_error(&[3.0, 4.0], &[3.0, 3.0]), Some(0.2));
        assert_eq!(latent_error(&[3.0, 4.0], &[3.0]), None);
        assert_eq!(latent_error(&[0.0], &[0.0]), None);
        assert_eq!(latent_error(&[1.0], &[f32::NAN]), None);
    }

    #[test]
    fn a_picture_below_the_window_is_refused() {
        let size = ImageSize { width: 10, height: 40 };
        let small = RgbImage { size, pixels: vec![0; size.pixels() * 3] };
        assert!(ssim(&small, &small).is_err());
    }
}
