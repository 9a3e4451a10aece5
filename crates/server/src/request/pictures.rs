//! Decoding the pictures that a request or a command brings, and the mask of the first.

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use diffusion::{ImageSize, InputImage, InvalidRequest, Mask};
use tokio::sync::Semaphore;

use super::picture_file::{MAX_PIXELS, PictureError, PictureFile, Place};
use super::sources::{self, MAX_IMAGE_BYTES, Source};
use crate::error::ApiError;

/// Most requests whose pictures are decoded at a time: one of 64 megapixels takes up to 0.8 GB while
/// it is.
static DECODERS: Semaphore = Semaphore::const_new(2);

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The pictures to edit: upright, in sRGB, on white where they are transparent.
#[derive(Clone, Debug, Default)]
pub struct InputPictures {
    /// The pictures, in their order.
    pub images: Arc<[InputImage]>,
    /// Where the first may be changed.
    pub mask: Option<Mask>,
}

/// Decodes the files of pictures and of a mask, by the rules of requests over HTTP.
///
/// # Errors
/// The first that is no picture, or too large a one, or a mask that does not belong to the first picture; the
/// field is `image` or `mask`.
pub fn input_pictures(files: Vec<Vec<u8>>, mask: Option<Vec<u8>>) -> Result<InputPictures, InvalidRequest> {
    let sources = files.into_iter().map(Source::File).collect();
    decode_all(sources, mask.map(Source::File), "image").map_err(PictureError::into_inner)
}

/// The pictures of `sources` and the mask, decoded on a blocking thread. A field is told of as `param`.
///
/// # Errors
/// As of [`input_pictures`].
pub(crate) async fn decoded(
    sources: Vec<Source>,
    mask: Option<Source>,
    param: &'static str,
) -> Result<InputPictures, ApiError> {
    if sources.is_empty() {
        return Ok(InputPictures::default());
    }
    let permit = DECODERS.acquire().await.expect("it is never closed. This is a bug.");
    // The client may leave meanwhile, and the work goes on: so does its permit.
    let decoding = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        decode_all(sources, mask, param)
    });
    let decoded = decoding.await.unwrap_or_else(|panic| {
        tracing::error!(%panic, "decoding a picture panicked");
        Err(Place { param, idx: 0, count: 1 }.invalid("be a whole picture", "one that cannot be decoded"))
    });
    Ok(decoded?)
}

fn decode_all(sources: Vec<Source>, mask: Option<Source>, param: &'static str) -> Result<InputPictures, PictureError> {
    let count = sources.len();
    let mut pixels_left = MAX_PIXELS;
    let mut first = None;
    let mut images = Vec::with_capacity(count);
    for (idx, source) in sources.into_iter().enumerate() {
        let place = Place { param, idx, count };
        let bytes = bytes(source, &place)?;
        let file = PictureFile::open(&bytes, pixels_left, &place)?;
        first.get_or_insert_with(|| FirstSize { upright: file.upright_size(), stored: file.stored_size() });
        pixels_left -= file.stored_size().pixels();
        images.push(InputImage::new(file.opaque()?));
    }
    let mask = match (mask, first) {
        (Some(mask), Some(first)) => Some(decode_mask(mask, first, pixels_left)?),
        _ => None,
    };
    Ok(InputPictures { images: images.into(), mask })
}

/// The sides of the picture that a mask is for.
#[derive(Clone, Copy)]
struct FirstSize {
    upright: ImageSize,
    stored: ImageSize,
}

/// A mask is turned upright by its own EXIF, as pictures are, and lies on the upright picture.
fn decode_mask(source: Source, first: FirstSize, pixels_left: usize) -> Result<Mask, PictureError> {
    let place = Place { param: "mask", idx: 0, count: 1 };
    let bytes = bytes(source, &place)?;
    let file = PictureFile::open(&bytes, pixels_left, &place)?;
    if !file.has_alpha() {
        let bound = "have an alpha channel, as PNG, WebP and GIF files can: what is transparent is edited";
        return Err(place.invalid(bound, "a picture without one"));
    }
    let size = file.upright_size();
    if size != first.upright {
        let mut bound = format!("be as large as the (first) picture, {}", first.upright);
        if first.stored != first.upright {
            bound += &format!(" (once that is turned upright: its file has {})", first.stored);
        }
        return Err(place.invalid(bound, size));
    }
    let alpha = file.alpha()?;
    if alpha.iter().all(|&alpha| alpha == u8::MAX) {
        return Err(place.invalid("be transparent where the picture is to be edited", "an opaque picture"));
    }
    Ok(Mask::from_alpha(size, &alpha))
}

/// The bytes of a picture's file.
fn bytes(source: Source, place: &Place) -> Result<Vec<u8>, PictureError> {
    match source {
        Source::File(file) => Ok(file),
        Source::DataUrl(url) => data(&url, place),
    }
}

/// The bytes behind a `data:` URL.
fn data(url: &str, place: &Place) -> Result<Vec<u8>, PictureError> {
    let broken = || place.invalid("be a URL such as data:image/png;base64,iVBORw0…", url);
    let (head, text) = url.split_once(',').ok_or_else(broken)?;
    if !head.to_ascii_lowercase().ends_with(";base64") {
        return Err(broken());
    }
    let is_wrapped = text.bytes().any(|byte| byte.is_ascii_whitespace());
    let text: Cow<str> = if is_wrapped { text.split_ascii_whitespace().collect() } else { text.into() };
    let bytes = BASE64.decode(text.as_bytes()).map_err(|err| place.invalid("be a URL of valid base64", err))?;
    if bytes.len() > MAX_IMAGE_BYTES {
        Err(PictureError::TooLarge(sources::file_too_large(place.param)))
    } else {
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests;
