//! The input pictures of an edit, and the mask of the first.

use std::sync::Arc;

use diffusion::{InputImage, InvalidRequest, Mask};

use crate::bounds::MAX_PIXELS;
use crate::file::{Footprint, PictureFile};
use crate::mask::{MASK, Sides, check_mask, decode_mask};
use crate::place::{PictureError, Place};

/// The pictures to edit: upright, in sRGB, and on white where they are transparent.
#[derive(Clone, Debug, Default)]
pub struct InputPictures {
    /// The pictures, in order.
    pub images: Arc<[InputImage]>,
    /// The area of the first picture that may change.
    pub mask: Option<Mask>,
}

/// Decodes the files of pictures and of a mask, by the same rules as for HTTP requests.
///
/// # Errors
/// The first file that is not a picture or is too large, or a mask that does not fit the first picture. The field is
/// `image` or `mask`.
pub fn input_pictures(files: Vec<Vec<u8>>, mask: Option<Vec<u8>>) -> Result<InputPictures, InvalidRequest> {
    let files = InputFiles::read(files.into_iter().map(Ok), mask.map(Ok), "image");
    files.and_then(InputFiles::decode).map_err(PictureError::into_inner)
}

/// The files of pictures and of a mask, with their heads read.
pub struct InputFiles {
    images: Vec<Vec<u8>>,
    mask: Option<Vec<u8>>,
    param: &'static str,
    /// Memory for decoding all of them in turn.
    pub footprint: Footprint,
}

impl InputFiles {
    /// Reads the heads of all files, and refuses what it can before anything is decoded. `mask` has at most one item.
    ///
    /// # Errors
    /// The error of an item of `images` or `mask`; the first file that is not an accepted format or is too large; or a
    /// mask that does not fit the first picture.
    pub fn read(
        images: impl ExactSizeIterator<Item = Result<Vec<u8>, PictureError>>,
        mask: impl IntoIterator<Item = Result<Vec<u8>, PictureError>>,
        param: &'static str,
    ) -> Result<Self, PictureError> {
        let count = images.len();
        let mut files = InputFiles { images: Vec::new(), mask: None, param, footprint: Footprint::default() };
        let mut pixels_left = MAX_PIXELS;
        let mut first = None;
        for (idx, bytes) in images.enumerate() {
            let place = Place { param, idx, count };
            let bytes = bytes?;
            let file = PictureFile::open(&bytes, pixels_left, &place)?;
            first.get_or_insert(Sides::of(&file));
            pixels_left -= file.stored_size().pixels();
            files.footprint = files.footprint.then(file.opaque_footprint());
            drop(file);
            files.images.push(bytes);
        }
        if let Some(bytes) = mask.into_iter().next().filter(|_| first.is_some()) {
            let bytes = bytes?;
            let file = PictureFile::open(&bytes, pixels_left, &MASK)?;
            check_mask(&file, first)?;
            files.footprint = files.footprint.then(file.alpha_footprint());
            drop(file);
            files.mask = Some(bytes);
        }
        Ok(files)
    }

    /// Decodes all files, and frees each once it is decoded.
    ///
    /// # Errors
    /// The first broken file, or a mask that changes nothing.
    pub fn decode(self) -> Result<InputPictures, PictureError> {
        let InputFiles { images: files, mask, param, .. } = self;
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
