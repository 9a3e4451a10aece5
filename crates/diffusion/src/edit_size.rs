//! The size of an edited picture, where the request names none, and which pictures can be edited.

use crate::{ImageSize, InvalidRequest};

/// Which of the pictures to edit gives the result its shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShapeOf {
    /// The first.
    First,
    /// The last.
    Last,
}

/// The rule by which a model sizes the pictures that it edits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EditSize {
    /// About so many pixels in the picture's shape, whatever its own size (Qwen-Image-Edit).
    Area {
        /// Pixels, about.
        area: usize,
        /// Whose shape.
        of: ShapeOf,
    },
    /// The first picture's own size in whole tokens, made smaller where it has more pixels than this (FLUX.2).
    Own {
        /// Most pixels.
        max_area: usize,
    },
}

/// Sides that Qwen-Image-Edit generates are multiples of this.
const AREA_MULTIPLE: f64 = 32.0;
/// Sides that FLUX.2 generates are multiples of this: its tokens' own side.
const OWN_MULTIPLE: usize = 16;

impl EditSize {
    /// The size that a picture of `input`, the one that gives the shape, is edited at.
    pub fn of(self, input: ImageSize) -> ImageSize {
        match self {
            EditSize::Area { area, .. } => dimensions(area, input.width as f64 / input.height as f64),
            EditSize::Own { max_area } => {
                let capped = capped(input, max_area);
                let whole = |side: usize| (side / OWN_MULTIPLE).max(1) * OWN_MULTIPLE;
                ImageSize { width: whole(capped.width), height: whole(capped.height) }
            }
        }
    }

    /// Which picture gives the shape. Under a mask, which belongs to the first, it is always that.
    pub fn shape_of(self) -> ShapeOf {
        match self {
            EditSize::Area { of, .. } => of,
            EditSize::Own { .. } => ShapeOf::First,
        }
    }
}

/// About `area` pixels of width to height `ratio`, each side a multiple of 32, as diffusers'
/// `calculate_dimensions`:
/// <https://github.com/huggingface/diffusers/blob/v0.37.0/src/diffusers/pipelines/qwenimage/pipeline_qwenimage_edit.py#L155>
pub fn dimensions(area: usize, ratio: f64) -> ImageSize {
    let width = (area as f64 * ratio).sqrt();
    // Half to even, as Python rounds.
    let side = |side: f64| ((side / AREA_MULTIPLE).round_ties_even().max(1.0) * AREA_MULTIPLE) as usize;
    ImageSize { width: side(width), height: side(width / ratio) }
}

/// `size`, scaled down to `max_area` pixels if it has more, as `_resize_to_target_area` of diffusers' FLUX.2:
/// <https://github.com/huggingface/diffusers/blob/v0.37.0/src/diffusers/pipelines/flux2/image_processor.py#L93>
pub fn capped(size: ImageSize, max_area: usize) -> ImageSize {
    if size.pixels() <= max_area {
        return size;
    }
    let scale = (max_area as f64 / size.pixels() as f64).sqrt();
    let side = |side: usize| ((side as f64 * scale) as usize).max(1);
    ImageSize { width: side(size.width), height: side(size.height) }
}

/// Which pictures a model can edit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InputImageBounds {
    /// Fewest pictures of a request: more than none where the model does nothing but edit.
    pub min_images: usize,
    /// Most pictures of a request: none where the model makes pictures from text only.
    pub max_images: usize,
    /// The shortest side, in pixels.
    pub min_side: usize,
    /// How many times a picture may be longer than wide, or wider than long.
    pub max_ratio: f64,
}

impl InputImageBounds {
    /// Of a model that makes pictures from text only.
    pub const NONE: InputImageBounds = InputImageBounds { min_images: 0, max_images: 0, min_side: 1, max_ratio: 1.0 };

    /// Checks how many pictures a request brings.
    ///
    /// # Errors
    /// Too few or too many; the field is `image`.
    pub fn check_count(&self, count: usize) -> Result<(), InvalidRequest> {
        let count_of = |count: usize| if count == 1 { "1 picture".into() } else { format!("{count} pictures") };
        let bound = if count < self.min_images {
            "be given: the model makes pictures from pictures, by POST /v1/images/edits or `latentd edit`".into()
        } else if self.max_images == 0 && count > 0 {
            "be absent: the model makes pictures from text only".into()
        } else if count > self.max_images {
            format!("be at most {} for this model", count_of(self.max_images))
        } else {
            return Ok(());
        };
        Err(InvalidRequest::new("image", bound, count_of(count)))
    }

    /// Checks the sizes of a request's pictures.
    ///
    /// # Errors
    /// As of [`InputImageBounds::check_count`], or the first whose size is out of bounds; the field is `image`.
    pub fn check(&self, sizes: &[ImageSize]) -> Result<(), InvalidRequest> {
        self.check_count(sizes.len())?;
        for (size, number) in sizes.iter().zip(1..) {
            let given = format!("{size} (picture {number})");
            if size.width.min(size.height) < self.min_side {
                let bound = format!("have sides of at least {} pixels for this model", self.min_side);
                return Err(InvalidRequest::new("image", bound, given));
            }
            let (long, short) = (size.width.max(size.height) as f64, size.width.min(size.height) as f64);
            if long / short > self.max_ratio {
                let bound = format!("be at most {} times as long as wide for this model", self.max_ratio);
                return Err(InvalidRequest::new("image", bound, given));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(width: usize, height: usize) -> ImageSize {
        ImageSize { width, height }
    }

    #[test]
    fn an_area_is_kept_in_another_shape() {
        let rule = EditSize::Area { area: 1024 * 1024, of: ShapeOf::First };
        for (input, expected) in [
            (size(512, 512), "1024x1024"),
            (size(4032, 3024), "1184x896"),
            (size(1920, 1080), "1376x768"),
            (size(1, 1), "1024x1024"),
            (size(4000, 20), "14496x64"),
        ] {
            assert_eq!(rule.of(input).to_string(), expected, "{input}");
        }
    }

    #[test]
    fn a_picture_keeps_its_own_size_up_to_an_area() {
        let rule = EditSize::Own { max_area: 1024 * 1024 };
        for (input, expected) in [
            (size(512, 512), "512x512"),
            (size(100, 70), "96x64"),
            (size(4032, 3024), "1168x880"),
            (size(64, 64), "64x64"),
            (size(9, 3), "16x16"),
        ] {
            assert_eq!(rule.of(input).to_string(), expected, "{input}");
        }
    }

    #[test]
    fn pictures_out_of_bounds_are_told_which_and_why() {
        let bounds = InputImageBounds { min_images: 1, max_images: 2, min_side: 64, max_ratio: 8.0 };
        let check = |sizes: &[ImageSize]| bounds.check(sizes).map_err(|err| err.to_string());
        assert_eq!(check(&[size(64, 512), size(512, 64)]), Ok(()));
        for (sizes, expected) in [
            (vec![], "`image` must be given: the model makes pictures from pictures"),
            (vec![size(64, 64); 3], "`image` must be at most 2 pictures for this model. Given: 3 pictures"),
            (
                vec![size(64, 64), size(63, 64)],
                "`image` must have sides of at least 64 pixels for this model. Given: 63x64 (picture 2)",
            ),
            (
                vec![size(64, 513)],
                "`image` must be at most 8 times as long as wide for this model. Given: 64x513 (picture 1)",
            ),
        ] {
            let message = check(&sizes).unwrap_err();
            assert!(message.starts_with(expected), "{message}");
        }
        let refused = InputImageBounds::NONE.check(&[size(64, 64)]).unwrap_err().to_string();
        assert_eq!(refused, "`image` must be absent: the model makes pictures from text only. Given: 1 picture");
        assert_eq!(InputImageBounds::NONE.check(&[]), Ok(()));
    }
}
