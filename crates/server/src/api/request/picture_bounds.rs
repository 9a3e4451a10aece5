//! Bounds of a request's pictures that are checked before any is decoded.

use diffusion::InvalidRequest;

/// Most pictures of a request (OpenAI's bound); models accept fewer.
pub(crate) const MAX_INPUT_IMAGES: usize = 16;
/// Most bytes of a picture's file.
pub(crate) const MAX_IMAGE_BYTES: usize = 20 << 20;
/// Most characters of a picture's URL (OpenAI's bound).
pub(crate) const MAX_URL_CHARS: usize = 20_971_520;

/// The error for a longer file.
pub(crate) fn file_too_large(param: &'static str) -> InvalidRequest {
    let bound = format!("be a file of at most {MAX_IMAGE_BYTES} bytes");
    InvalidRequest::new(param, bound, "a longer file")
}
