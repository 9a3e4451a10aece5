//! Decoding the pictures that a request or a command brings, and the mask of the first.

use std::sync::Arc;

use diffusion::{ImageSize, InputImage, InputImageBounds, InvalidRequest, Mask};
use tokio::sync::Semaphore;

use super::data_url::{self, Invalid};
use super::held_memory::{HeldMemory, shown};
use super::picture_file::{Footprint, MAX_PIXELS, PictureError, PictureFile, Place};
use super::sources::{self, Named, Source};
use crate::api::error::ApiError;
use crate::api::request::picture_bounds::{MAX_IMAGE_BYTES, file_too_large};

/// Most requests whose pictures are decoded at a time: that takes more memory than they have afterwards.
static DECODERS: Semaphore = Semaphore::const_new(2);

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

fn decode_all(sources: Vec<Source>, mask: Option<Source>, param: &'static str) -> Result<InputPictures, PictureError> {
    PictureFiles::read(sources, mask, param)?.decode()
}

/// The memory of a request that brings pictures.
pub(super) struct PictureMemory {
    /// Of what was sent, as long as it is there.
    pub(super) sent: HeldMemory,
    /// For what is decoded, nothing yet.
    pub(super) decoded: HeldMemory,
}

/// The pictures of `sources` and the mask, decoded on a blocking thread, and the memory that they hold. A field is told
/// of as `param`.
///
/// # Errors
/// As of [`input_pictures`]; there is no room for them, or never will be.
pub(super) async fn decoded(
    sources: Vec<Source>,
    mask: Option<Source>,
    param: &'static str,
    memory: PictureMemory,
) -> Result<(InputPictures, HeldMemory), ApiError> {
    if sources.is_empty() {
        return Ok((InputPictures::default(), memory.decoded));
    }
    decoding(param, move || {
        let PictureMemory { sent: _sent, decoded: mut held } = memory;
        let files = PictureFiles::read(sources, mask, param)?;
        let kept = files.footprint.kept;
        reserve(&mut held, files.footprint, param)?;
        let pictures = files.decode()?;
        held.shrink_to(kept);
        Ok((pictures, held))
    })
    .await
}

/// Judges, of pictures and a mask, those that came along, while others are yet to be fetched. They are decoded for that,
/// one after the other in memory of `held`, and not kept: fetching may take long, and bytes are fewer than pixels.
///
/// # Errors
/// The first that [`decoded`] would refuse, whatever the others are, or whose size the model does not take.
pub(super) async fn judged(
    images: Vec<Named>,
    mask: Option<Named>,
    param: &'static str,
    bounds: InputImageBounds,
    mut held: HeldMemory,
) -> Result<(Vec<Named>, Option<Named>), ApiError> {
    decoding(param, move || judge_all(images, mask, param, &bounds, &mut held)).await
}

/// What is decoded on a blocking thread.
async fn decoding<T: Send + 'static>(
    param: &'static str,
    decode: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let permit = DECODERS.acquire().await.expect("it is never closed. This is a bug.");
    // The client may leave meanwhile, and the work goes on: so does its permit, and what it holds.
    let decoding = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        decode()
    });
    decoding.await.unwrap_or_else(|panic| {
        tracing::error!(%panic, "decoding a picture panicked");
        Err(Place { param, idx: 0, count: 1 }.invalid("be a whole picture", "one that cannot be decoded").into())
    })
}

/// Holds what decoding takes at most, before anything is decoded.
fn reserve(held: &mut HeldMemory, footprint: Footprint, param: &'static str) -> Result<(), ApiError> {
    held.could_take(footprint.peak).map_err(|bound| never_fits(param, &bound, footprint))?;
    Ok(held.take(footprint.peak)?)
}

/// What is told of pictures that are too large for this server, however little others hold.
fn never_fits(param: &'static str, bound: &str, footprint: Footprint) -> PictureError {
    Place { param, idx: 0, count: 1 }.too_large(format!("be decoded in at most {bound}"), shown(footprint.peak))
}

fn judge_all(
    mut images: Vec<Named>,
    mut mask: Option<Named>,
    param: &'static str,
    bounds: &InputImageBounds,
    held: &mut HeldMemory,
) -> Result<(Vec<Named>, Option<Named>), ApiError> {
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
        reserve(held, file.alpha_footprint(), sources::MASK)?;
        decode_mask(file)?;
    }
    Ok((images, mask))
}

/// The file of a picture that came along, which it is from now on: the text of a `data:` URL is not needed any more.
fn in_bytes<'n>(named: &'n mut Named, place: &Place) -> Result<Option<&'n [u8]>, PictureError> {
    let Named::Sent(source) = named else { return Ok(None) };
    let file = bytes(std::mem::replace(source, Source::File(Vec::new())), place)?;
    *source = Source::File(file);
    Ok(match source {
        Source::File(file) => Some(file),
        Source::DataUrl(_) => None,
    })
}

/// The files of pictures and of a mask, of which the heads were read.
struct PictureFiles {
    images: Vec<Vec<u8>>,
    mask: Option<Vec<u8>>,
    param: &'static str,
    /// Of decoding all of them, one after the other.
    footprint: Footprint,
}

impl PictureFiles {
    /// Reads the heads of all files: what can be refused by them is, before anything is decoded.
    ///
    /// # Errors
    /// The first that is none of our kinds of pictures, or too large a one, or a mask that does not fit the first.
    fn read(sources: Vec<Source>, mask: Option<Source>, param: &'static str) -> Result<Self, PictureError> {
        let count = sources.len();
        let mut files = PictureFiles { images: Vec::new(), mask: None, param, footprint: Footprint::default() };
        let mut pixels_left = MAX_PIXELS;
        let mut first = None;
        for (idx, source) in sources.into_iter().enumerate() {
            let place = Place { param, idx, count };
            let bytes = bytes(source, &place)?;
            let file = PictureFile::open(&bytes, pixels_left, &place)?;
            first.get_or_insert(Sides::of(&file));
            pixels_left -= file.stored_size().pixels();
            files.footprint = files.footprint.then(file.opaque_footprint());
            drop(file);
            files.images.push(bytes);
        }
        if let Some(mask) = mask.filter(|_| first.is_some()) {
            let bytes = bytes(mask, &MASK)?;
            let file = PictureFile::open(&bytes, pixels_left, &MASK)?;
            check_mask(&file, first)?;
            files.footprint = files.footprint.then(file.alpha_footprint());
            drop(file);
            files.mask = Some(bytes);
        }
        Ok(files)
    }

    /// Decodes them, each file being let go when that is done.
    ///
    /// # Errors
    /// The first that is broken, or a mask that changes nothing.
    fn decode(self) -> Result<InputPictures, PictureError> {
        let PictureFiles { images: files, mask, param, .. } = self;
        let count = files.len();
        let mut images = Vec::with_capacity(count);
        for (idx, bytes) in files.into_iter().enumerate() {
            let place = Place { param, idx, count };
            images.push(InputImage::new(PictureFile::open(&bytes, MAX_PIXELS, &place)?.opaque()?));
        }
        let mask =
            mask.as_deref().map(|bytes| decode_mask(PictureFile::open(bytes, MAX_PIXELS, &MASK)?)).transpose()?;
        Ok(InputPictures { images: images.into(), mask })
    }
}

/// Where a mask stands.
const MASK: Place = Place { param: sources::MASK, idx: 0, count: 1 };

/// The sides of a picture.
#[derive(Clone, Copy)]
struct Sides {
    upright: ImageSize,
    stored: ImageSize,
}

impl Sides {
    fn of(file: &PictureFile<'_>) -> Self {
        Sides { upright: file.upright_size(), stored: file.stored_size() }
    }
}

/// A mask is turned upright by its own EXIF, as pictures are, and lies on the upright picture: on `first`, if that is
/// known yet.
fn check_mask(file: &PictureFile<'_>, first: Option<Sides>) -> Result<(), PictureError> {
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

fn decode_mask(file: PictureFile<'_>) -> Result<Mask, PictureError> {
    let size = file.upright_size();
    let alpha = file.alpha()?;
    if alpha.iter().all(|&alpha| alpha == u8::MAX) {
        return Err(MASK.invalid("be transparent where the picture is to be edited", "an opaque picture"));
    }
    Ok(Mask::from_alpha(size, &alpha))
}

/// The bytes of a picture's file.
fn bytes(source: Source, place: &Place) -> Result<Vec<u8>, PictureError> {
    let file = match source {
        Source::File(file) => return Ok(file),
        Source::DataUrl(url) => data_url::decoded(url),
    };
    let file = file.map_err(|Invalid { bound, given }| place.invalid(bound, given))?;
    if file.len() > MAX_IMAGE_BYTES { Err(PictureError::TooLarge(file_too_large(place.param))) } else { Ok(file) }
}

#[cfg(test)]
mod tests;
