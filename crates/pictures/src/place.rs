//! Where in a request a picture was given, for errors.

use diffusion::InvalidRequest;
use image::ImageError;

use crate::bounds::MAX_DECODER_BYTES;

/// Why a picture is refused; the error names the field it was given in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PictureError {
    /// The file is not a picture, or cannot be read.
    #[error(transparent)]
    Invalid(InvalidRequest),
    /// The picture exceeds a limit.
    #[error(transparent)]
    TooLarge(InvalidRequest),
}

impl PictureError {
    /// The error with the field, the bound and the value.
    pub fn into_inner(self) -> InvalidRequest {
        match self {
            PictureError::Invalid(err) | PictureError::TooLarge(err) => err,
        }
    }
}

/// Picture `idx` of `count` in a field.
pub struct Place {
    /// The field.
    pub param: &'static str,
    /// Index of the picture.
    pub idx: usize,
    /// Number of pictures in the field.
    pub count: usize,
}

impl Place {
    fn error(&self, bound: impl Into<String>, given: impl ToString) -> InvalidRequest {
        let given = given.to_string();
        let given = if self.count > 1 { format!("{given} (picture {})", self.idx + 1) } else { given };
        InvalidRequest::new(self.param, bound, given)
    }

    /// The error for a picture that must `bound`.
    pub fn invalid(&self, bound: impl Into<String>, given: impl ToString) -> PictureError {
        PictureError::Invalid(self.error(bound, given))
    }

    /// The error for a picture that exceeds a limit.
    pub fn too_large(&self, bound: impl Into<String>, given: impl ToString) -> PictureError {
        PictureError::TooLarge(self.error(bound, given))
    }

    /// The error for a failed decoder.
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
