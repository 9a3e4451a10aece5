//! Bounds on the pictures that a model can edit.

use crate::{ImageSize, InvalidRequest};

/// Bounds on the pictures that a model can edit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InputImageBounds {
    /// Minimum number of pictures per request: above 0 if the model only edits.
    pub min_images: usize,
    /// Maximum number of pictures per request: 0 if the model generates from text only.
    pub max_images: usize,
    /// Minimum side in pixels.
    pub min_side: usize,
    /// Maximum ratio of the longer to the shorter side.
    pub max_ratio: f64,
}

impl InputImageBounds {
    /// Bounds of a model that generates from text only.
    pub const NONE: InputImageBounds = InputImageBounds { min_images: 0, max_images: 0, min_side: 1, max_ratio: 1.0 };

    /// Checks the number of pictures of a request.
    ///
    /// # Errors
    /// There are too few or too many pictures; the field is `image`.
    pub fn check_count(&self, count: usize) -> Result<(), InvalidRequest> {
        let count_of = |count: usize| if count == 1 { "1 picture".into() } else { format!("{count} pictures") };
        let bound = if count < self.min_images {
            "be given: the model makes pictures from pictures, by POST /v1/images/edits or `latentd edit`".into()
        } else if self.max_images == 0 && count > 0 {
            "be absent: the model makes pictures from text only. One that edits: Qwen/Qwen-Image-Edit-2511".into()
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
    /// The errors of [`InputImageBounds::check_count`], or the first picture whose size is out of bounds; the field is
    /// `image`.
    pub fn check(&self, sizes: &[ImageSize]) -> Result<(), InvalidRequest> {
        self.check_count(sizes.len())?;
        sizes.iter().zip(1..).try_for_each(|(size, number)| self.check_size(*size, number))
    }

    /// Checks the size of one picture; `number` counts from 1.
    ///
    /// # Errors
    /// The size is out of bounds; the field is `image`.
    pub fn check_size(&self, size: ImageSize, number: usize) -> Result<(), InvalidRequest> {
        let (long, short) = (size.width.max(size.height), size.width.min(size.height));
        let bound = if short < self.min_side {
            format!("have sides of at least {} pixels for this model", self.min_side)
        } else if long as f64 / short as f64 > self.max_ratio {
            format!("be at most {} times as long as wide for this model", self.max_ratio)
        } else {
            return Ok(());
        };
        Err(InvalidRequest::new("image", bound, format!("{size} (picture {number})")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(width: usize, height: usize) -> ImageSize {
        ImageSize { width, height }
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
        assert_eq!(
            refused,
            "`image` must be absent: the model makes pictures from text only. One that edits: \
            Qwen/Qwen-Image-Edit-2511. Given: 1 picture"
        );
        assert_eq!(InputImageBounds::NONE.check(&[]), Ok(()));
    }
}
