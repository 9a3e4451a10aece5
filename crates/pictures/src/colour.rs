//! Colour management: pictures become sRGB, whatever the file's profile is.

use image::DynamicImage;
use moxcms::{CmsError, ColorProfile, DataColorSpace, Layout, TransformOptions};

/// Converts the picture to sRGB; the files of phones have a wider gamut in their profile. A profile that is broken, or
/// not for RGB, is ignored: the decoder has converted the others to RGB.
pub(crate) fn in_srgb(picture: DynamicImage, icc_profile: Option<&[u8]>) -> DynamicImage {
    let profile = icc_profile.and_then(|bytes| ColorProfile::new_from_slice(bytes).ok());
    match profile.filter(|profile| profile.color_space == DataColorSpace::Rgb) {
        Some(profile) if picture.color().has_color() => converted(picture, &profile),
        _ => picture,
    }
}

fn converted(picture: DynamicImage, profile: &ColorProfile) -> DynamicImage {
    let (mut picture, layout) = if picture.color().has_alpha() {
        (DynamicImage::ImageRgba8(picture.into_rgba8()), Layout::Rgba)
    } else {
        (DynamicImage::ImageRgb8(picture.into_rgb8()), Layout::Rgb)
    };
    let row_len = picture.width() as usize * layout.channels();
    let pixels = match &mut picture {
        DynamicImage::ImageRgb8(picture) => picture.as_mut(),
        DynamicImage::ImageRgba8(picture) => picture.as_mut(),
        _ => unreachable!("it was made one of the two. This is a bug."),
    };
    // A picture that cannot be converted stays as it is.
    let _ = convert(pixels, row_len, profile, layout);
    picture
}

fn convert(pixels: &mut [u8], row_len: usize, profile: &ColorProfile, layout: Layout) -> Result<(), CmsError> {
    let srgb = ColorProfile::new_srgb();
    let transform = profile.create_transform_8bit(layout, &srgb, layout, TransformOptions::default())?;
    let mut from = vec![0; row_len];
    for row in pixels.chunks_exact_mut(row_len) {
        from.copy_from_slice(row);
        transform.transform(&from, row)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use image::{ImageBuffer, Luma, Rgb, Rgba};

    use super::*;

    fn display_p3() -> Vec<u8> {
        ColorProfile::new_display_p3().encode().unwrap()
    }

    #[test]
    fn wide_colours_become_those_of_srgb() {
        let picture = DynamicImage::ImageRgb8(ImageBuffer::from_pixel(3, 2, Rgb([234, 51, 35])));
        let converted = in_srgb(picture, Some(&display_p3())).into_rgb8();
        // sRGB's red is (234, 51, 35) in Display P3, as colour pickers show it.
        for pixel in converted.pixels() {
            let near = pixel.0.iter().zip([255, 0, 0]).all(|(ours, theirs)| ours.abs_diff(theirs) <= 4);
            assert!(near, "{pixel:?}");
        }
        let clear = DynamicImage::ImageRgba8(ImageBuffer::from_pixel(1, 1, Rgba([234, 51, 35, 77])));
        let converted = in_srgb(clear, Some(&display_p3())).into_rgba8();
        assert!(converted.as_raw()[0] > 250 && converted.as_raw()[3] == 77, "{converted:?}");
    }

    #[test]
    fn without_a_profile_for_its_colours_a_picture_stays() {
        let picture = DynamicImage::ImageRgb8(ImageBuffer::from_pixel(1, 1, Rgb([234, 51, 35])));
        let grey = DynamicImage::ImageLuma8(ImageBuffer::from_pixel(1, 1, Luma([99])));
        let srgb = ColorProfile::new_srgb().encode().unwrap();
        for profile in [None, Some(&b"no profile"[..]), Some(&display_p3()[..100]), Some(&srgb)] {
            assert_eq!(in_srgb(picture.clone(), profile), picture);
        }
        assert_eq!(in_srgb(grey.clone(), Some(&display_p3())), grey);
    }
}
