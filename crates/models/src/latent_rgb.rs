//! Latents as colours without the VAE: a linear map, fitted to pictures that the VAE decoded before.

use cache::solve_symmetric;
use diffusion::{ImageSize, RgbImage};
use fast_image_resize::images::Image;
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

/// Pixels per latent position along a side.
const SCALE: usize = 8;
/// Added to each channel's variance, so that noise does not determine the weights of nearly constant channels.
const RIDGE: f64 = 1e-3;

/// Least squares from a latent's channels to the mean colour of its pixels.
///
/// The map is known only from what the checkpoint decodes, so every decoded picture adds to the fit. Only the sums of
/// the normal equations are kept, a few kilobytes.
pub(crate) struct LatentRgb {
    channels: usize,
    /// Gram matrix of the latents, each extended by a 1 for the constant: `[channels + 1, channels + 1]`.
    gram: Vec<f64>,
    /// Products of colours and latents: `[3, channels + 1]`.
    moments: [Vec<f64>; 3],
}

impl LatentRgb {
    /// Creates an empty fit for latents with `channels` channels.
    pub(crate) fn new(channels: usize) -> Self {
        let n = channels + 1;
        LatentRgb { channels, gram: vec![0.0; n * n], moments: std::array::from_fn(|_| vec![0.0; n]) }
    }

    /// Adds `picture` to the fit, which was decoded from `latents`, `[height / 8, width / 8, channels]`.
    pub(crate) fn learn(&mut self, latents: &[f32], picture: &RgbImage) {
        if !latents.iter().all(|x| x.is_finite()) {
            // One broken picture would turn every sum into NaN.
            return;
        }
        let n = self.channels + 1;
        let mut latent = vec![1.0; n];
        for (numbers, colour) in latents.chunks_exact(self.channels).zip(mean_colours(picture).chunks_exact(3)) {
            latent.iter_mut().zip(numbers).for_each(|(x, number)| *x = f64::from(*number));
            for (row, a) in self.gram.chunks_exact_mut(n).zip(&latent) {
                row.iter_mut().zip(&latent).for_each(|(sum, b)| *sum += a * b);
            }
            for (row, value) in self.moments.iter_mut().zip(colour) {
                row.iter_mut().zip(&latent).for_each(|(sum, x)| *sum += value * x);
            }
        }
    }

    /// Draws `latents` at one pixel per position. Returns `None` before the first picture was learnt.
    pub(crate) fn draw(&self, latents: &[f32], size: ImageSize) -> Option<RgbImage> {
        let map = self.map()?;
        let value = |latent: &[f32], weights: &[f32]| {
            let sum: f32 = latent.iter().zip(weights).map(|(x, weight)| x * weight).sum();
            (sum + weights[self.channels]).round() as u8
        };
        let colours = latents.chunks_exact(self.channels).flat_map(|x| map.each_ref().map(|row| value(x, row)));
        Some(RgbImage { size, pixels: colours.collect() })
    }

    /// Solves for the map, `[3, channels + 1]`.
    fn map(&self) -> Option<[Vec<f32>; 3]> {
        let n = self.channels + 1;
        let seen = *self.gram.last()?;
        let ridge = |i: usize, j: usize| if i == j && i < self.channels { seen * RIDGE } else { 0.0 };
        let solve = |moments: &Vec<f64>| {
            let weights = solve_symmetric(n, |i, j| self.gram[i * n + j] + ridge(i, j), moments);
            weights.into_iter().map(|x| x as f32).collect()
        };
        (seen > 0.0).then(|| self.moments.each_ref().map(solve))
    }
}

/// Mean colours of the squares of 8 x 8 pixels, row by row, three numbers per square.
fn mean_colours(picture: &RgbImage) -> Vec<f64> {
    let columns = picture.size.width / SCALE;
    let mut colours = vec![0.0; columns * (picture.size.height / SCALE) * 3];
    for (y, row) in picture.pixels.chunks_exact(picture.size.width * 3).enumerate() {
        for (x, pixel) in row.chunks_exact(3).enumerate() {
            let square = y / SCALE * columns + x / SCALE;
            for (sum, value) in colours[square * 3..].iter_mut().zip(pixel) {
                *sum += f64::from(*value);
            }
        }
    }
    colours.iter_mut().for_each(|sum| *sum /= (SCALE * SCALE) as f64);
    colours
}

/// Enlarges `image` 8 times in width and height.
pub(crate) fn enlarged(image: RgbImage) -> RgbImage {
    let view = |size: ImageSize, pixels| {
        let view = Image::from_vec_u8(size.width as u32, size.height as u32, pixels, PixelType::U8x3);
        view.expect("3 bytes a pixel. This is a bug.")
    };
    let size = ImageSize { width: image.size.width * SCALE, height: image.size.height * SCALE };
    let small = view(image.size, image.pixels);
    let mut large = view(size, vec![0; size.pixels() * 3]);
    let bilinear = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
    Resizer::new().resize(&small, &mut large, &bilinear).expect("two pictures in RGB. This is a bug.");
    RgbImage { size, pixels: large.into_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::randn;

    /// A colour that depends on two of three channels.
    fn colour(latent: &[f32]) -> [u8; 3] {
        let (a, b) = (latent[0].clamp(-2.0, 2.0), latent[1].clamp(-2.0, 2.0));
        [100.0 + 20.0 * a, 120.0 - 10.0 * b, 50.0 + 5.0 * a + 15.0 * b].map(|x| x.round() as u8)
    }

    /// Latents on a grid of the given rows and columns, and the picture of their colours at that size.
    fn scene(seed: u64, (rows, columns): (usize, usize)) -> (Vec<f32>, RgbImage) {
        let noise = randn(seed, 3 * rows * columns);
        let latents: Vec<f32> = noise.into_iter().map(|x| x.clamp(-2.0, 2.0)).collect();
        let pixels = latents.chunks_exact(3).flat_map(colour).collect();
        (latents, RgbImage { size: ImageSize { width: columns, height: rows }, pixels })
    }

    /// Repeats each pixel 8 x 8 times.
    fn blocks(image: &RgbImage) -> RgbImage {
        let row = |row: &[u8]| row.chunks_exact(3).flat_map(|pixel| pixel.repeat(SCALE)).collect::<Vec<_>>();
        let rows = image.pixels.chunks_exact(image.size.width * 3);
        let pixels = rows.flat_map(|pixels| row(pixels).repeat(SCALE)).collect();
        let size = ImageSize { width: image.size.width * SCALE, height: image.size.height * SCALE };
        RgbImage { size, pixels }
    }

    #[test]
    fn a_linear_relation_is_found() {
        let mut map = LatentRgb::new(3);
        for (seed, grid) in [(1, (8, 6)), (2, (4, 10))] {
            let (latents, image) = scene(seed, grid);
            map.learn(&latents, &blocks(&image));
        }
        let (latents, expected) = scene(3, (5, 7));
        let drawn = map.draw(&latents, expected.size).unwrap();
        let errors = drawn.pixels.iter().zip(&expected.pixels).map(|(a, b)| a.abs_diff(*b));
        assert!(errors.max().unwrap() <= 1, "{drawn:?} {expected:?}");
    }

    #[test]
    fn nothing_is_drawn_before_anything_was_learnt() {
        let (latents, image) = scene(1, (2, 2));
        assert_eq!(LatentRgb::new(3).draw(&latents, image.size), None);
    }

    #[test]
    fn a_picture_that_went_wrong_teaches_nothing() {
        let mut map = LatentRgb::new(3);
        let (latents, image) = scene(1, (6, 6));
        map.learn(&latents, &blocks(&image));
        let before = map.draw(&latents, image.size);
        map.learn(&[f32::NAN; 3 * 36], &blocks(&image));
        assert!(before.is_some() && map.draw(&latents, image.size) == before);
    }

    #[test]
    fn latents_that_never_differ_teach_one_colour() {
        let mut map = LatentRgb::new(3);
        let size = ImageSize { width: 2, height: 2 };
        let grey = RgbImage { size, pixels: vec![90; 12] };
        map.learn(&[0.5; 12], &blocks(&grey));
        assert_eq!(map.draw(&[0.5; 12], size), Some(grey));
    }

    #[test]
    fn an_enlarged_picture_is_smooth_and_keeps_its_mean() {
        let size = ImageSize { width: 2, height: 1 };
        let large = enlarged(RgbImage { size, pixels: vec![0, 0, 0, 160, 160, 160] });
        assert_eq!((large.size.width, large.size.height), (16, 8));
        let row: Vec<_> = large.pixels[..16 * 3].iter().step_by(3).copied().collect();
        assert!(row.is_sorted() && row[7] > 60 && row[8] < 100, "{row:?}");
        assert_eq!((row[0], row[15]), (0, 160));
    }
}
