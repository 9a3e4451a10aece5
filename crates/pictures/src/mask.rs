//! Mask files: the area of a picture that may change.

use diffusion::{ImageSize, Mask};

use crate::file::PictureFile;
use crate::place::{PictureError, Place};

/// The mask's place in a request.
pub const MASK: Place = Place { param: "mask", idx: 0, count: 1 };

/// Sizes of a picture.
#[derive(Clone, Copy)]
pub struct Sides {
    upright: ImageSize,
    stored: ImageSize,
}

impl Sides {
    /// The sizes of a file.
    pub fn of(file: &PictureFile<'_>) -> Self {
        Sides { upright: file.upright_size(), stored: file.stored_size() }
    }
}

/// Checks a mask's head. A mask is rotated by its own EXIF orientation, as pictures are, and applies to the upright
/// picture: `first`, if its size is already known.
///
/// # Errors
/// It has no alpha channel, or another size.
pub fn check_mask(file: &PictureFile<'_>, first: Option<Sides>) -> Result<(), PictureError> {
    if !file.has_alpha() {
        let bound = "have an alpha channel, as PNG, WebP and GIF files can: what is transparent is edited";
        return Err(MASK.invalid(bound, "a picture without one"));
    }
    let size = file.upright_size();
    if let Some(first) = first.filter(|first| first.upright != size) {
        let mut bound = format!("be as large as the (first) picture, {}", first.upright);
        if first.stored != first.upright {
            bound += &format!(" (once that is turned upright: its file has {})", first.stored);
        }
        return Err(MASK.invalid(bound, size));
    }
    Ok(())
}

/// Decodes the area that the mask allows to change.
///
/// # Errors
/// It is broken, or opaque everywhere.
pub fn decode_mask(file: PictureFile<'_>) -> Result<Mask, PictureError> {
    let size = file.upright_size();
    let alpha = file.alpha()?;
    if alpha.iter().all(|&alpha| alpha == u8::MAX) {
        return Err(MASK.invalid("be transparent where the picture is to be edited", "an opaque picture"));
    }
    Ok(Mask::from_alpha(size, &alpha))
}
