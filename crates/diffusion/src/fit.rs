//! Models trained for certain sizes: the size to generate at, and how the picture gets the requested size.

use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::fmt;

use crate::ImageSize;

/// Maximum pixels of an enlarged picture. It bounds the cost of enlarging a small model's picture.
pub const MAX_FITTED_PIXELS: usize = 4096 * 4096;

/// Resizing of a picture from the generated size to the requested size. Its `Display` is a sentence for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fit {
    /// The generated size.
    pub made: ImageSize,
    /// The largest size with the shape of `made` that fits within `asked`, rounded to pixels: the size of the resized
    /// picture.
    pub inside: ImageSize,
    /// The requested size. If `inside` is smaller, the picture is centred and its edge pixels are extended outwards.
    pub asked: ImageSize,
}

impl Fit {
    /// Fits the nearest of the model's native sizes to `asked`: the nearest shape and, among equal shapes, the nearest
    /// area. `None` if that size is `asked` itself or the model has no native sizes.
    pub fn nearest(asked: ImageSize, native_sizes: &[ImageSize]) -> Option<Fit> {
        // Ratio of the larger to the smaller. It is bitwise equal for equal shapes.
        let apart = |a: usize, b: usize| ratio(a.max(b), a.min(b));
        let distance = |native: &ImageSize| {
            let shape = apart(native.width.saturating_mul(asked.height), native.height.saturating_mul(asked.width));
            (shape, apart(native.pixels(), asked.pixels()))
        };
        let nearer = |a: &&ImageSize, b: &&ImageSize| {
            let ((shape_a, area_a), (shape_b, area_b)) = (distance(a), distance(b));
            shape_a.total_cmp(&shape_b).then(area_a.total_cmp(&area_b))
        };
        let made = *native_sizes.iter().min_by(nearer)?;
        (made != asked).then(|| Fit { made, inside: inside(made, asked), asked })
    }
}

/// The largest size with the shape of `made` within `bounds`, rounded to pixels.
fn inside(made: ImageSize, bounds: ImageSize) -> ImageSize {
    let scale = ratio(bounds.width, made.width).min(ratio(bounds.height, made.height));
    let side = |side: usize, bound: usize| ((side as f64 * scale).round() as usize).clamp(1, bound);
    ImageSize { width: side(made.width, bounds.width), height: side(made.height, bounds.height) }
}

fn ratio(a: usize, b: usize) -> f64 {
    a as f64 / b as f64
}

impl fmt::Display for Fit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fit { made, inside, asked } = self;
        write!(f, "the picture was made at {made}, which the model was trained for, and ")?;
        match inside.pixels().cmp(&made.pixels()) {
            Ordering::Greater => write!(f, "enlarged to {inside}")?,
            Ordering::Less => write!(f, "reduced to {inside}")?,
            Ordering::Equal => write!(f, "left as it is")?,
        }
        match inside == asked {
            true => Ok(()),
            false => write!(f, " in the middle of {asked}, its edge carried outwards"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(text: &str) -> ImageSize {
        text.parse().unwrap()
    }

    fn fit(asked: &str, native_sizes: &[&str]) -> Option<[String; 2]> {
        let native_sizes: Vec<_> = native_sizes.iter().map(|native| size(native)).collect();
        Fit::nearest(size(asked), &native_sizes).map(|fit| [fit.made.to_string(), fit.inside.to_string()])
    }

    #[test]
    fn a_picture_fills_what_its_shape_can() {
        for (asked, inside) in [
            ("64x64", "64x64"),
            ("192x128", "128x128"),
            ("512x512", "512x512"),
            ("1024x1792", "1024x1024"),
            ("1920x1080", "1080x1080"),
            ("4096x4096", "4096x4096"),
            ("16384x1", "1x1"),
        ] {
            assert_eq!(fit(asked, &["128x128"]), Some(["128x128".into(), inside.into()]), "{asked}");
        }
        assert_eq!(fit("1000x1000", &["128x96"]), Some(["128x96".into(), "1000x750".into()]));
    }

    #[test]
    fn the_nearest_shape_is_made_and_then_the_nearest_area() {
        let native = ["128x128", "256x256", "256x128", "128x256"];
        for (asked, made) in [
            ("1024x1024", "256x256"),
            ("100x100", "128x128"),
            ("1792x1024", "256x128"),
            ("1024x1792", "128x256"),
            ("200x160", "128x128"),
            ("220x180", "256x256"),
        ] {
            assert_eq!(fit(asked, &native).map(|[made, _]| made), Some(made.into()), "{asked}");
        }
    }

    #[test]
    fn what_needs_no_fit_has_none() {
        assert_eq!(fit("128x128", &["256x256", "128x128"]), None);
        assert_eq!(fit("1024x1024", &[]), None);
    }

    #[test]
    fn every_inside_is_within_what_was_asked_and_touches_it() {
        for width in (1..700).step_by(13) {
            for height in (1..700).step_by(17) {
                let asked = ImageSize { width, height };
                let Some(fit) = Fit::nearest(asked, &[size("128x96")]) else { continue };
                let ImageSize { width: w, height: h } = fit.inside;
                assert!(w >= 1 && h >= 1 && w <= width && h <= height, "{fit:?}");
                assert!(w == width || h == height, "{fit:?}");
            }
        }
    }

    #[test]
    fn it_says_what_is_done() {
        let said = |asked: &str| Fit::nearest(size(asked), &[size("128x128")]).unwrap().to_string();
        let made = "the picture was made at 128x128, which the model was trained for, and ";
        assert_eq!(said("1024x1024"), format!("{made}enlarged to 1024x1024"));
        assert_eq!(said("64x64"), format!("{made}reduced to 64x64"));
        let outwards = "enlarged to 512x512 in the middle of 768x512, its edge carried outwards";
        assert_eq!(said("768x512"), format!("{made}{outwards}"));
        let as_it_is = "left as it is in the middle of 192x128, its edge carried outwards";
        assert_eq!(said("192x128"), format!("{made}{as_it_is}"));
    }
}
