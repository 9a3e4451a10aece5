//! Pictures at other sizes, as Pillow makes them.

use diffusion::{ImageSize, RgbImage};
use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

/// Pillow's filters of these names; both look at more pixels where a picture gets smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Keys' cubic with a = -0.5.
    Bicubic,
    /// A sinc over three lobes.
    Lanczos,
}

/// `image` at `size`, whatever its shape: `PIL.Image.resize`. A picture that has the size comes back as it is.
pub fn resize(image: &RgbImage, size: ImageSize, filter: Filter) -> RgbImage {
    RgbImage { size, pixels: resized(&image.pixels, PixelType::U8x3, image.size, size, filter) }
}

/// The same of a mask: a byte a pixel.
pub(crate) fn resize_grey(pixels: &[u8], from: ImageSize, size: ImageSize, filter: Filter) -> Vec<u8> {
    resized(pixels, PixelType::U8, from, size, filter)
}

fn resized(pixels: &[u8], pixel_type: PixelType, from: ImageSize, size: ImageSize, filter: Filter) -> Vec<u8> {
    if from == size {
        return pixels.to_vec();
    }
    let source = ImageRef::new(from.width as u32, from.height as u32, pixels, pixel_type);
    let source = source.expect("a picture has the bytes of its size. This is a bug.");
    let mut resized = Image::new(size.width as u32, size.height as u32, pixel_type);
    let filter = match filter {
        Filter::Bicubic => FilterType::CatmullRom,
        Filter::Lanczos => FilterType::Lanczos3,
    };
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter));
    Resizer::new().resize(&source, &mut resized, &options).expect("two pictures of one kind. This is a bug.");
    resized.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(width: usize, height: usize) -> ImageSize {
        ImageSize { width, height }
    }

    #[test]
    fn a_plain_colour_stays_what_it_is() {
        let image = RgbImage { size: size(7, 3), pixels: [9, 120, 255].repeat(21) };
        for filter in [Filter::Bicubic, Filter::Lanczos] {
            for target in [size(7, 3), size(1, 1), size(40, 2), size(3, 50)] {
                let resized = resize(&image, target, filter);
                assert_eq!((resized.size, resized.pixels), (target, [9, 120, 255].repeat(target.pixels())));
            }
        }
    }

    /// `np.array(Image.fromarray(row).resize((width, 1), filter))` with Pillow 13.0.
    #[test]
    fn the_filters_are_pillow_s() {
        let row = [0u8, 10, 40, 200, 250, 90, 30, 0];
        let image = RgbImage { size: size(8, 1), pixels: row.iter().flat_map(|&grey| [grey; 3]).collect() };
        for (filter, expected) in [
            (Filter::Bicubic, vec![19, 175, 45]),
            (Filter::Lanczos, vec![15, 179, 45]),
            (Filter::Bicubic, vec![0, 4, 14, 45, 169, 245, 226, 95, 43, 13, 0]),
            (Filter::Lanczos, vec![0, 7, 8, 45, 162, 255, 223, 97, 39, 15, 0]),
        ] {
            let resized = resize(&image, size(expected.len(), 1), filter);
            let greys: Vec<_> = resized.pixels.chunks_exact(3).map(|pixel| pixel[0]).collect();
            assert_eq!(greys, expected, "{filter:?}");
        }
    }
}
