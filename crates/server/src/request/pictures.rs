//! Decoding the pictures that a request or a command brings, and the mask of the first.

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use diffusion::{ImageSize, InputImage, InputImageBounds, InvalidRequest, Mask, RgbImage};
use tokio::sync::Semaphore;

use super::picture_file::{MAX_PIXELS, PictureError, PictureFile, Place};
use super::sources::{self, MAX_IMAGE_BYTES, Named, Source};
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
    decoding(param, move || Ok(decode_all(sources, mask, param)?)).await
}

/// Judges, of pictures and a mask, those that came along, while others are yet to be fetched. They are decoded for that,
/// and not kept: fetching may take long, and bytes are fewer than pixels.
///
/// # Errors
/// The first that [`decoded`] would refuse, whatever the others are, or whose size the model does not take.
pub(crate) async fn judged(
    images: Vec<Named>,
    mask: Option<Named>,
    param: &'static str,
    bounds: InputImageBounds,
) -> Result<(Vec<Named>, Option<Named>), ApiError> {
    decoding(param, move || {
        judge_all(&images, mask.as_ref(), param, &bounds)?;
        Ok((images, mask))
    })
    .await
}

/// What is decoded on a blocking thread.
async fn decoding<T: Send + 'static>(
    param: &'static str,
    decode: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let permit = DECODERS.acquire().await.expect("it is never closed. This is a bug.");
    // The client may leave meanwhile, and the work goes on: so does its permit.
    let decoding = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        decode()
    });
    decoding.await.unwrap_or_else(|panic| {
        tracing::error!(%panic, "decoding a picture panicked");
        Err(Place { param, idx: 0, count: 1 }.invalid("be a whole picture", "one that cannot be decoded").into())
    })
}

fn judge_all(
    images: &[Named],
    mask: Option<&Named>,
    param: &'static str,
    bounds: &InputImageBounds,
) -> Result<(), ApiError> {
    let mut pixels_left = MAX_PIXELS;
    let mut first = None;
    for (idx, named) in images.iter().enumerate() {
        let Named::Sent(source) = named else { continue };
        let place = Place { param, idx, count: images.len() };
        let (sides, picture) = decode(source, pixels_left, &place)?;
        bounds.check_size(picture.size, idx + 1)?;
        pixels_left -= sides.stored.pixels();
        if idx == 0 {
            first = Some(sides);
        }
    }
    if let Some(Named::Sent(mask)) = mask {
        decode_mask(mask, first, pixels_left)?;
    }
    Ok(())
}

fn decode_all(sources: Vec<Source>, mask: Option<Source>, param: &'static str) -> Result<InputPictures, PictureError> {
    let count = sources.len();
    let mut pixels_left = MAX_PIXELS;
    let mut first = None;
    let mut images = Vec::with_capacity(count);
    for (idx, source) in sources.into_iter().enumerate() {
        let (sides, picture) = decode(&source, pixels_left, &Place { param, idx, count })?;
        pixels_left -= sides.stored.pixels();
        first.get_or_insert(sides);
        images.push(InputImage::new(picture));
    }
    let mask = mask.filter(|_| first.is_some()).map(|mask| decode_mask(&mask, first, pixels_left)).transpose()?;
    Ok(InputPictures { images: images.into(), mask })
}

/// The sides of a picture.
#[derive(Clone, Copy)]
struct Sides {
    upright: ImageSize,
    stored: ImageSize,
}

fn decode(source: &Source, pixels_left: usize, place: &Place) -> Result<(Sides, RgbImage), PictureError> {
    let bytes = bytes(source, place)?;
    let file = PictureFile::open(&bytes, pixels_left, place)?;
    Ok((Sides { upright: file.upright_size(), stored: file.stored_size() }, file.opaque()?))
}

/// A mask is turned upright by its own EXIF, as pictures are, and lies on the upright picture: on `first`, if that is
/// known yet.
fn decode_mask(source: &Source, first: Option<Sides>, pixels_left: usize) -> Result<Mask, PictureError> {
    let place = Place { param: sources::MASK, idx: 0, count: 1 };
    let bytes = bytes(source, &place)?;
    let file = PictureFile::open(&bytes, pixels_left, &place)?;
    if !file.has_alpha() {
        let bound = "have an alpha channel, as PNG, WebP and GIF files can: what is transparent is edited";
        return Err(place.invalid(bound, "a picture without one"));
    }
    let size = file.upright_size();
    if let Some(first) = first.filter(|first| first.upright != size) {
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
fn bytes<'s>(source: &'s Source, place: &Place) -> Result<Cow<'s, [u8]>, PictureError> {
    match source {
        Source::File(file) => Ok(file.into()),
        Source::DataUrl(url) => Ok(data(url, place)?.into()),
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
