//! The size of an edited picture, where the request names none.

use crate::ImageSize;

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

    /// A size no larger than that of any edit under a limit of so many pixels.
    pub(crate) fn least(self, max_pixels: usize) -> ImageSize {
        let side = match self {
            // Each side is rounded, never to less than half of it.
            EditSize::Area { area, .. } => (area.min(max_pixels) / 4).isqrt().max(1),
            EditSize::Own { .. } => 1,
        };
        ImageSize { width: side, height: side }
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
