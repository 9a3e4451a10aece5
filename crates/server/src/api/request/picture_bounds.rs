//! The bounds of the pictures that a request brings, before any is looked into.

use diffusion::InvalidRequest;

/// Most pictures that a request may bring (OpenAI's bound); models take fewer.
pub(crate) const MAX_INPUT_IMAGES: usize = 16;
/// Most bytes of a picture's file.
pub(crate) const MAX_IMAGE_BYTES: usize = 20 << 20;
/// Most characters of a picture's URL (OpenAI's bound).
pub(crate) const MAX_URL_CHARS: usize = 20_971_520;

/// What a longer file is told.
pub(crate) fn file_too_large(param: &'static str) -> InvalidRequest {
    let bound = format!("be a file of at most {MAX_IMAGE_BYTES} bytes");
    InvalidRequest::new(param, bound, "a longer one")
}
