//! Resizing a picture to the size at which a model edits it, or to the requested size.

use diffusion::{EditSize, Fit, ImageRequest, ImageSize, RgbImage, capped};
use rayon::prelude::*;

use crate::resize::{Filter, resize, resize_grey};

/// Brings `image` to the size that `rule` gives: by resizing, or by resizing and cropping to whole tokens.
pub(crate) fn fitted(image: &RgbImage, rule: EditSize) -> RgbImage {
    let size = rule.of(image.size);
    let resized = match rule {
        EditSize::Area { .. } => return resize(image, size, Filter::Lanczos),
        EditSize::Own { max_area } => resize(image, capped(image.size, max_area), Filter::Lanczos),
    };
    match resized.size.width >= size.width && resized.size.height >= size.height {
        true => resized.crop_center(size),
        // A picture less than one token high or wide is enlarged.
        false => resize(&resized, size, Filter::Lanczos),
    }
}

/// Applies [`fitted`] to the `editable` bytes of a mask, so that mask and picture stay aligned. `from` is the size of
/// the picture.
pub(crate) fn fitted_mask(editable: &[u8], from: ImageSize, rule: EditSize) -> Vec<u8> {
    let size = rule.of(from);
    let (resized, resized_size) = match rule {
        EditSize::Area { .. } => return resize_grey(editable, from, size, Filter::Bicubic),
        EditSize::Own { max_area } => {
            let capped = capped(from, max_area);
            (resize_grey(editable, from, capped, Filter::Bicubic), capped)
        }
    };
    if resized_size.width < size.width || resized_size.height < size.height {
        return resize_grey(&resized, resized_size, size, Filter::Bicubic);
    }
    let (left, top) = ((resized_size.width - size.width) / 2, (resized_size.height - size.height) / 2);
    let rows = resized.chunks_exact(resized_size.width).skip(top).take(size.height);
    rows.flat_map(|row| &row[left..left + size.width]).copied().collect()
}

/// Brings a finished picture, or a preview, to the requested size.
pub(crate) fn presented(image: RgbImage, fit: Fit) -> RgbImage {
    let resized = resize(&image, fit.inside, Filter::Lanczos);
    if fit.inside == fit.asked { resized } else { padded(&resized, fit.asked) }
}

/// Centres `image` in the larger `size` and extends its edge pixels outwards.
pub(crate) fn padded(image: &RgbImage, size: ImageSize) -> RgbImage {
    let ImageSize { width, height } = image.size;
    let (left, top) = ((size.width - width) / 2, (size.height - height) / 2);
    let mut pixels = vec![0; size.pixels() * 3];
    pixels.par_chunks_exact_mut(size.width * 3).enumerate().for_each(|(y, out)| {
        let nearest = y.saturating_sub(top).min(height - 1);
        let row = &image.pixels[nearest * width * 3..][..width * 3];
        let (before, rest) = out.split_at_mut(left * 3);
        let (middle, after) = rest.split_at_mut(width * 3);
        middle.copy_from_slice(row);
        let carry = |out: &mut [u8], edge: &[u8]| out.chunks_exact_mut(3).for_each(|pixel| pixel.copy_from_slice(edge));
        carry(before, &row[..3]);
        carry(after, &row[(width - 1) * 3..]);
    });
    RgbImage { size, pixels }
}

/// Whether the first input picture's aspect ratio differs from the output's by more than a token.
pub(crate) fn is_stretched(request: &ImageRequest) -> bool {
    let made = request.params.size;
    request.input_images.first().is_some_and(|input| {
        let ImageSize { width, height } = input.image.size;
        let same_shape = made.width as f64 * height as f64 / width as f64;
        (same_shape - made.height as f64).abs() > 32.0
    })
}

#[cfg(test)]
mod tests {
    use diffusion::ShapeOf;

    use super::*;

    /// The red channel is the column, the green channel the row.
    fn ramp(width: usize, height: usize) -> RgbImage {
        let pixels = (0..height).flat_map(|y| (0..width).flat_map(move |x| [x as u8, y as u8, 0])).collect();
        RgbImage { size: ImageSize { width, height }, pixels }
    }

    #[test]
    fn an_area_is_filled_by_the_whole_picture() {
        let rule = EditSize::Area { area: 64 * 64, of: ShapeOf::First };
        let fitted = fitted(&ramp(128, 128), rule);
        assert_eq!(fitted.size.to_string(), "64x64");
        assert!(fitted.pixels[0] <= 1 && fitted.pixels[63 * 3] >= 126, "both edges are there");
    }

    #[test]
    fn a_picture_of_its_own_size_loses_what_is_no_whole_token() {
        let rule = EditSize::Own { max_area: 1 << 20 };
        let fitted = fitted(&ramp(100, 70), rule);
        assert_eq!((fitted.size.to_string().as_str(), &fitted.pixels[..3]), ("96x64", &[2, 3, 0][..]));
        let mask: Vec<u8> = (0..70).flat_map(|y| (0..100).map(move |x| x + y)).collect();
        assert_eq!(fitted_mask(&mask, ImageSize { width: 100, height: 70 }, rule)[..2], [5, 6]);
        assert_eq!(super::fitted(&ramp(100, 9), rule).size.to_string(), "96x16");
    }

    #[test]
    fn an_enlarged_picture_made_small_again_is_the_one_that_was_made() {
        // Edges, flat areas and fine texture, as in real pictures.
        let side = 128;
        let grey = |x: usize, y: usize| match (x.abs_diff(64) + y.abs_diff(64), x % 32) {
            (..30, _) => 230,
            (_, 3..9) => (90 + 3 * (x % 32) + y / 2) as u8,
            _ => 60,
        };
        let pixels = (0..side).flat_map(|y| (0..side).flat_map(move |x| [grey(x, y), 40, 255 - grey(x, y)]));
        let made = RgbImage { size: ImageSize { width: side, height: side }, pixels: pixels.collect() };
        for asked in ["192x128", "256x256", "512x512", "1024x1024", "1024x1792", "1920x1080", "4096x4096"] {
            let fit = Fit::nearest(asked.parse().unwrap(), &[made.size]).unwrap();
            let picture = presented(made.clone(), fit);
            assert_eq!(picture.size.to_string(), asked);
            let again = resize(&picture.crop_center(fit.inside), made.size, Filter::Lanczos);
            let differences = || again.pixels.iter().zip(&made.pixels).map(|(a, b)| a.abs_diff(*b));
            let mean = differences().map(f64::from).sum::<f64>() / made.pixels.len() as f64;
            assert!(mean < 1.0 && differences().max() < Some(32), "{asked}: {mean} {:?}", differences().max());
        }
    }

    #[test]
    fn what_another_shape_leaves_free_is_the_edge_carried_outwards() {
        let made = ramp(128, 128);
        for asked in ["192x128", "128x224", "200x64"] {
            let fit = Fit::nearest(asked.parse().unwrap(), &[made.size]).unwrap();
            let picture = presented(made.clone(), fit);
            let at = |x: usize, y: usize| &picture.pixels[(y * picture.size.width + x) * 3..][..3];
            let (left, top) = ((fit.asked.width - fit.inside.width) / 2, (fit.asked.height - fit.inside.height) / 2);
            assert_eq!(at(0, 0), at(left, top), "{asked}");
            let ImageSize { width, height } = fit.asked;
            assert_eq!(at(width - 1, height / 2), at(left + fit.inside.width - 1, height / 2), "{asked}");
            assert_eq!(at(width / 2, height - 1), at(width / 2, top + fit.inside.height - 1), "{asked}");
        }
    }

    #[test]
    fn a_padded_picture_is_cut_back_to_itself() {
        let image = ramp(5, 3);
        let padded = padded(&image, ImageSize { width: 16, height: 16 });
        assert_eq!(padded.pixels[..3], image.pixels[..3], "the corner goes on outwards");
        assert_eq!(padded.crop_center(image.size), image);
    }
}
