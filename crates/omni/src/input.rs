//! What pictures are made from: words, and pictures to edit.

use std::path::Path;

use pictures::{InputPictures, input_pictures};

use crate::error::Error;

/// A prompt, and the pictures that it speaks of: what the guide's Python calls a prompt with `multi_modal_data`.
///
/// A string is one without pictures.
#[derive(Clone, Debug, Default)]
pub struct OmniInput {
    /// What the pictures should show, or what to change.
    pub prompt: String,
    /// The pictures to edit, and where.
    pub pictures: InputPictures,
}

impl<T: Into<String>> From<T> for OmniInput {
    fn from(prompt: T) -> Self {
        OmniInput { prompt: prompt.into(), pictures: InputPictures::default() }
    }
}

/// Reads the files of pictures to edit (PNG, JPEG, WebP or GIF) and of a mask, by the rules of the server's edits:
/// upright, in sRGB, on white where they are transparent; a mask is as large as the first picture, which is edited
/// where it is transparent.
///
/// # Errors
/// A file cannot be read, or is no such picture.
pub fn open_pictures(images: &[impl AsRef<Path>], mask: Option<&Path>) -> Result<InputPictures, Error> {
    let files = images.iter().map(|path| read(path.as_ref())).collect::<Result<_, _>>()?;
    Ok(input_pictures(files, mask.map(read).transpose()?)?)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::File { action: "read", path: path.display().to_string(), source })
}
