//! Where a picture was given, as its sender is told.

use diffusion::InvalidRequest;
use image::ImageError;

use crate::bounds::MAX_DECODER_BYTES;

/// Why a picture is not taken; the field is the one that it was given in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PictureError {
    /// It is none, or none that can be read.
    #[error(transparent)]
    Invalid(InvalidRequest),
    /// It is over a bound.
    #[error(transparent)]
    TooLarge(InvalidRequest),
}

impl PictureError {
    /// The field, the bound and what was given.
    pub fn into_inner(self) -> InvalidRequest {
        match self {
            PictureError::Invalid(err) | PictureError::TooLarge(err) => err,
        }
    }
}

/// The `idx`th of so many pictures of a field.
pub struct Place {
    /// The field.
    pub param: &'static str,
    /// Which of its pictures.
    pub idx: usize,
    /// How many there are.
    pub count: usize,
}

impl Place {
    fn error(&self, bound: impl Into<String>, given: impl ToString) -> InvalidRequest {
        let given = given.to_string();
        let given = if self.count > 1 { format!("{given} (picture {})", self.idx + 1) } else { given };
        InvalidRequest::new(self.param, bound, given)
    }

    /// Of a picture that must `bound`.
    pub fn invalid(&self, bound: impl Into<String>, given: impl ToString) -> PictureError {
        PictureError::Invalid(self.error(bound, given))
    }

    /// Of a picture that is over a bound.
    pub fn too_large(&self, bound: impl Into<String>, given: impl ToString) -> PictureError {
        PictureError::TooLarge(self.error(bound, given))
    }

    /// Of a decoder that gave up.
    pub(crate) fn broken(&self, err: ImageError) -> PictureError {
        match err {
            ImageError::Limits(_) => {
                let bound = format!("be decoded in at most {MAX_DECODER_BYTES} bytes of memory");
                self.too_large(bound, "a picture that needs more")
            }
            err => self.invalid("be a whole picture", err),
        }
    }
}
