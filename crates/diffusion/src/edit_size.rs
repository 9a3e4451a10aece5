//! The size of an edited picture when the request names none.

use crate::ImageSize;

/// The input picture that determines the result's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShapeOf {
    /// The first picture.
    First,
    /// The last picture.
    Last,
}

/// The rule that derives an edited picture's size from its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EditSize {
    /// About `area` pixels in the input's aspect ratio, whatever the input's own size (Qwen-Image-Edit).
    Area {
        /// Approximate pixel count.
        area: usize,
        /// The picture whose aspect ratio is used.
        of: ShapeOf,
    },
    /// The first picture's own size in whole tokens, reduced if it has more pixels than `max_area` (FLUX.2).
    Own {
        /// Maximum pixel count.
        max_area: usize,
    },
}

/// Qwen-Image-Edit generates sides that are multiples of this.
const AREA_MULTIPLE: f64 = 32.0;
/// FLUX.2 generates sides that are multiples of this, its token side.
const OWN_MULTIPLE: usize = 16;

impl EditSize {
    /// The size of the edit of a picture of size `input`, the one that determines the shape.
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

    /// A lower bound on the size of any edit under a limit of `max_pixels` pixels.
    pub(crate) fn least(self, max_pixels: usize) -> ImageSize {
        let side = match self {
            // Rounding takes a side to no less than half of its value.
            EditSize::Area { area, .. } => (area.min(max_pixels) / 4).isqrt().max(1),
            EditSize::Own { .. } => 1,
        };
        ImageSize { width: side, height: side }
    }

    /// The picture that determines the shape. With a mask it is always the first, because the mask belongs to the
    /// first.
    pub fn shape_of(self) -> ShapeOf {
        match self {
            EditSize::Area { of, .. } => of,
            EditSize::Own { .. } => ShapeOf::First,
        }
    }
}

/// A size of about `area` pixels with width to height `ratio`, each side a multiple of 32. Same as diffusers'
/// `calculate_dimensions`:
/// <https://github.com/huggingface/diffusers/blob/v0.37.0/src/diffusers/pipelines/qwenimage/pipeline_qwenimage_edit.py#L155>
pub fn dimensions(area: usize, ratio: f64) -> ImageSize {
    let width = (area as f64 * ratio).sqrt();
    // Half to even, as Python rounds.
    let side = |side: f64| ((side / AREA_MULTIPLE).round_ties_even().max(1.0) * AREA_MULTIPLE) as usize;
    ImageSize { width: side(width), height: side(width / ratio) }
}

/// `size`, scaled down to `max_area` pixels if it has more. Same as `_resize_to_target_area` of diffusers' FLUX.2:
/// <https://github.com/huggingface/diffusers/blob/v0.37.0/src/diffusers/pipelines/flux2/image_processor.py#L93>
pub fn capped(size: ImageSize, max_area: usize) -> ImageSize {
    if size.pixels() <= max_area {
        return size;
    }
    let scale = (max_area as f64 / size.pixels() as f64).sqrt();
    let side = |side: usize| ((side as f64 * scale) as usize).max(1);
    ImageSize { width: side(size.width), height: side(size.height) }
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
}
