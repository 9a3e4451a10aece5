//! Resizing as Pillow does it.

use diffusion::{ImageSize, RgbImage};
use fast_image_resize::images::Image;
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

/// The filters that the reference pipelines ask Pillow for, antialiased when a picture shrinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// `PIL.Image.Resampling.LANCZOS`
    Lanczos,
    /// `PIL.Image.Resampling.BICUBIC`
    Bicubic,
}

/// `image` at `size`. The library's convolution is Pillow's, fixed-point weights included.
pub fn resize(image: &RgbImage, size: ImageSize, filter: Filter) -> RgbImage {
    let pixels = resized(&image.pixels, PixelType::U8x3, image.size, size, filter);
    RgbImage { size, pixels }
}

/// The one channel `pixels` of a picture of size `from` at `size`.
pub(crate) fn resize_grey(pixels: &[u8], from: ImageSize, size: ImageSize, filter: Filter) -> Vec<u8> {
    resized(pixels, PixelType::U8, from, size, filter)
}

fn resized(pixels: &[u8], pixel_type: PixelType, from: ImageSize, to: ImageSize, filter: Filter) -> Vec<u8> {
    if from == to {
        return pixels.to_vec();
    }
    let image = |size: ImageSize, pixels: Vec<u8>| {
        let (width, height) = (size.width as u32, size.height as u32);
        Image::from_vec_u8(width, height, pixels, pixel_type).expect("a picture has its size's pixels. This is a bug.")
    };
    let filter = match filter {
        Filter::Lanczos => FilterType::Lanczos3,
        Filter::Bicubic => FilterType::CatmullRom,
    };
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter));
    let source = image(from, pixels.to_vec());
    let mut target = image(to, vec![0; to.pixels() * pixel_type.size()]);
    Resizer::new().resize(&source, &mut target, &options).expect("two pictures of one kind. This is a bug.");
    target.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_colour_stays_that_at_any_size() {
        let size = |width, height| ImageSize { width, height };
        for (from, to) in [(size(1, 1), size(64, 32)), (size(4000, 10), size(16, 64)), (size(7, 5), size(7, 5))] {
            for filter in [Filter::Lanczos, Filter::Bicubic] {
                let image = RgbImage { size: from, pixels: [10, 120, 250].repeat(from.pixels()) };
                let resized = resize(&image, to, filter);
                assert_eq!(resized.pixels, [10, 120, 250].repeat(to.pixels()), "{from} {to} {filter:?}");
                assert_eq!(resize_grey(&vec![77; from.pixels()], from, to, filter), vec![77; to.pixels()]);
            }
        }
    }
}
