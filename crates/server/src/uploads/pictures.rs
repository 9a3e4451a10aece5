//! Decoding of input pictures and the mask of the first, for requests and the command line.

use diffusion::InputImageBounds;
use pictures::{
    Footprint, InputFiles, InputPictures, MASK, MAX_PIXELS, PictureError, PictureFile, Place, Sides, check_mask,
    decode_mask,
};
use tokio::sync::Semaphore;

use super::data_url::{self, Invalid};
use super::held_memory::{HeldMemory, shown};
use super::sources::{NamedPicture, SentPicture};
use crate::api::error::ApiError;
use crate::api::request::picture_bounds::{MAX_IMAGE_BYTES, file_too_large};

/// Most requests whose pictures are decoded at the same time: decoding needs more memory than the result.
static DECODERS: Semaphore = Semaphore::const_new(2);

/// Memory of a request with pictures.
pub(super) struct PictureMemory {
    /// For the uploaded bytes, until they are freed.
    pub(super) sent: HeldMemory,
    /// For the decoded pictures, still empty.
    pub(super) decoded: HeldMemory,
}

/// Decodes `sources` and the mask on a blocking thread. Returns them with the memory that they hold. `param` is the
/// field for errors.
///
/// # Errors
/// Same as [`pictures::input_pictures`]; or the memory is full, or too small for them.
pub(super) async fn decoded(
    sources: Vec<SentPicture>,
    mask: Option<SentPicture>,
    param: &'static str,
    memory: PictureMemory,
) -> Result<(InputPictures, HeldMemory), ApiError> {
    if sources.is_empty() {
        return Ok((InputPictures::default(), memory.decoded));
    }
    decoding(param, move || {
        let PictureMemory { sent: _sent, decoded: mut held } = memory;
        let files = in_files(sources, mask, param)?;
        let kept = files.footprint.kept;
        reserve(&mut held, files.footprint, param)?;
        let pictures = files.decode()?;
        held.shrink_to(kept);
        Ok((pictures, held))
    })
    .await
}

/// Checks the uploaded pictures and mask while others must still be fetched. Each is decoded in turn, in memory of
/// `held`, and the pixels are dropped: fetching may take long, and files are smaller than pixels.
///
/// # Errors
/// The first uploaded picture that [`decoded`] would refuse, whatever the others are, or whose size the model does not
/// accept.
pub(super) async fn judged(
    images: Vec<NamedPicture>,
    mask: Option<NamedPicture>,
    param: &'static str,
    bounds: InputImageBounds,
    mut held: HeldMemory,
) -> Result<(Vec<NamedPicture>, Option<NamedPicture>), ApiError> {
    decoding(param, move || judge_all(images, mask, param, &bounds, &mut held)).await
}

/// Runs `decode` on a blocking thread.
async fn decoding<T: Send + 'static>(
    param: &'static str,
    decode: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let permit = DECODERS.acquire().await.expect("it is never closed. This is a bug.");
    // The work goes on if the client leaves, so it keeps the permit and its memory.
    let decoding = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        decode()
    });
    decoding.await.unwrap_or_else(|panic| {
        tracing::error!(%panic, "decoding a picture panicked");
        Err(Place { param, idx: 0, count: 1 }.invalid("be a whole picture", "one that cannot be decoded").into())
    })
}

/// Reserves the peak memory before anything is decoded.
fn reserve(held: &mut HeldMemory, footprint: Footprint, param: &'static str) -> Result<(), ApiError> {
    held.could_take(footprint.peak).map_err(|bound| never_fits(param, &bound, footprint))?;
    Ok(held.take(footprint.peak)?)
}

/// The error for pictures that need more memory than the server may use.
fn never_fits(param: &'static str, bound: &str, footprint: Footprint) -> PictureError {
    Place { param, idx: 0, count: 1 }.too_large(format!("be decoded in at most {bound}"), shown(footprint.peak))
}

fn judge_all(
    mut images: Vec<NamedPicture>,
    mut mask: Option<NamedPicture>,
    param: &'static str,
    bounds: &InputImageBounds,
    held: &mut HeldMemory,
) -> Result<(Vec<NamedPicture>, Option<NamedPicture>), ApiError> {
    let mut pixels_left = MAX_PIXELS;
    let mut first = None;
    let count = images.len();
    for (idx, named) in images.iter_mut().enumerate() {
        let place = Place { param, idx, count };
        let Some(bytes) = in_bytes(named, &place)? else { continue };
        let file = PictureFile::open(bytes, pixels_left, &place)?;
        bounds.check_size(file.upright_size(), idx + 1)?;
        pixels_left -= file.stored_size().pixels();
        if idx == 0 {
            first = Some(Sides::of(&file));
        }
        reserve(held, file.opaque_footprint(), param)?;
        file.opaque()?;
        held.shrink_to(0);
    }
    if let Some(mask) = &mut mask
        && let Some(bytes) = in_bytes(mask, &MASK)?
    {
        let file = PictureFile::open(bytes, pixels_left, &MASK)?;
        check_mask(&file, first)?;
        reserve(held, file.alpha_footprint(), MASK.param)?;
        decode_mask(file)?;
    }
    Ok((images, mask))
}

/// Replaces an uploaded picture by its file's bytes, so that the text of a `data:` URL is freed. `None` for a remote
/// one.
fn in_bytes<'n>(named: &'n mut NamedPicture, place: &Place) -> Result<Option<&'n [u8]>, PictureError> {
    let NamedPicture::Sent(source) = named else { return Ok(None) };
    let file = bytes(std::mem::replace(source, SentPicture::File(Vec::new())), place)?;
    *source = SentPicture::File(file);
    Ok(match source {
        SentPicture::File(file) => Some(file),
        SentPicture::DataUrl(_) => None,
    })
}

/// Reads the heads of all `sources` and of the mask.
///
/// # Errors
/// Same as [`InputFiles::read`].
fn in_files(
    sources: Vec<SentPicture>,
    mask: Option<SentPicture>,
    param: &'static str,
) -> Result<InputFiles, PictureError> {
    let count = sources.len();
    let images = sources.into_iter().enumerate().map(|(idx, source)| bytes(source, &Place { param, idx, count }));
    InputFiles::read(images, mask.map(|mask| bytes(mask, &MASK)), param)
}

/// The bytes of a picture's file.
fn bytes(source: SentPicture, place: &Place) -> Result<Vec<u8>, PictureError> {
    let file = match source {
        SentPicture::File(file) => return Ok(file),
        SentPicture::DataUrl(url) => data_url::decoded(url),
    };
    let file = file.map_err(|Invalid { bound, given }| place.invalid(bound, given))?;
    if file.len() > MAX_IMAGE_BYTES { Err(PictureError::TooLarge(file_too_large(place.param))) } else { Ok(file) }
}

impl From<PictureError> for ApiError {
    fn from(err: PictureError) -> Self {
        match err {
            PictureError::Invalid(err) => ApiError::InvalidImage(err),
            PictureError::TooLarge(err) => ApiError::ImageTooLarge(err),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use base64::Engine;
    use image::{DynamicImage, ImageBuffer, ImageFormat};

    use super::*;

    const BLUE: [u8; 3] = [30, 60, 200];

    #[test]
    fn data_urls_are_read_as_clients_write_them() {
        let mut file = Cursor::new(Vec::new());
        let picture = DynamicImage::ImageRgb8(ImageBuffer::from_pixel(1, 1, image::Rgb(BLUE)));
        picture.write_to(&mut file, ImageFormat::Png).unwrap();
        let text = base64::engine::general_purpose::STANDARD.encode(file.get_ref());
        let read = |url: String| {
            in_files(vec![SentPicture::DataUrl(url)], None, "images")
                .and_then(InputFiles::decode)
                .map_err(|err| err.to_string())
        };
        let wrapped: String =
            text.as_bytes().chunks(20).map(|line| format!("{}\r\n", str::from_utf8(line).unwrap())).collect();
        for url in [
            format!("data:image/png;base64,{text}"),
            format!("DATA:;BASE64,{}", text.trim_end_matches('=')),
            format!("data:image/jpeg;name=x.jpg;base64,{wrapped}"),
        ] {
            assert_eq!(read(url.clone()).unwrap().images[0].image.pixels, BLUE, "{url}");
        }
        for bad in ["data:image/png;base64", "data:image/png,abc", "data:image/png;base64,?"] {
            assert!(read(bad.into()).unwrap_err().starts_with("`images` must be a URL"), "{bad}");
        }
    }
}
