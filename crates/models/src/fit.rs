//! Bringing a picture to the size that a model edits it at.

use diffusion::{EditSize, ImageSize, RgbImage, capped};

use crate::resize::{Filter, resize, resize_grey};

/// `image` at the size that the rule gives it: resized whole, or resized and cut to whole tokens.
pub(crate) fn fitted(image: &RgbImage, rule: EditSize) -> RgbImage {
    let size = rule.of(image.size);
    let resized = match rule {
        EditSize::Area { .. } => return resize(image, size, Filter::Lanczos),
        EditSize::Own { max_area } => resize(image, capped(image.size, max_area), Filter::Lanczos),
    };
    match resized.size.width >= size.width && resized.size.height >= size.height {
        true => resized.crop_center(size),
        // Less than a token high or wide: made so.
        false => resize(&resized, size, Filter::Lanczos),
    }
}

/// The same of a mask's `editable` bytes, which belong to a picture of size `from`, so that mask and picture
/// stay together.
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

/// `image` in the middle of the larger `size`, its edge carried outwards.
pub(crate) fn padded(image: &RgbImage, size: ImageSize) -> RgbImage {
    let ImageSize { width, height } = image.size;
    let (left, top) = ((size.width - width) / 2, (size.height - height) / 2);
    let nearest = |at: usize, before: usize, count: usize| at.saturating_sub(before).min(count - 1);
    let pixels = (0..size.height).flat_map(|y| {
        let row = &image.pixels[nearest(y, top, height) * width * 3..][..width * 3];
        (0..size.width).flat_map(move |x| row[nearest(x, left, width) * 3..][..3].iter().copied())
    });
    RgbImage { size, pixels: pixels.collect() }
}

#[cfg(test)]
mod tests {
    use diffusion::ShapeOf;

    use super::*;

    /// Red counts columns, green rows.
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
    fn a_padded_picture_is_cut_back_to_itself() {
        let image = ramp(5, 3);
        let padded = padded(&image, ImageSize { width: 16, height: 16 });
        assert_eq!(padded.pixels[..3], image.pixels[..3], "the corner goes on outwards");
        assert_eq!(padded.crop_center(image.size), image);
    }
}
