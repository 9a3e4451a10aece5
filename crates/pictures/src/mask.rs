//! The file of a mask: where a picture may be changed.

use diffusion::{ImageSize, Mask};

use crate::file::PictureFile;
use crate::place::{PictureError, Place};

/// Where a mask stands.
pub const MASK: Place = Place { param: "mask", idx: 0, count: 1 };

/// The sides of a picture.
#[derive(Clone, Copy)]
pub struct Sides {
    upright: ImageSize,
    stored: ImageSize,
}

impl Sides {
    /// Of a file.
    pub fn of(file: &PictureFile<'_>) -> Self {
        Sides { upright: file.upright_size(), stored: file.stored_size() }
    }
}

/// A mask is turned upright by its own EXIF, as pictures are, and lies on the upright picture: on `first`, if that is
/// known yet.
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

/// Where the mask lets the picture be changed.
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
