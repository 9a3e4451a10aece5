//! The input of a generation: a prompt, and pictures to edit.

use std::path::Path;

use pictures::{InputPictures, input_pictures};

use crate::error::Error;

/// A prompt and the pictures to edit. The guide's Python calls this a prompt with `multi_modal_data`.
///
/// A string converts to an input without pictures.
#[derive(Clone, Debug, Default)]
pub struct OmniInput {
    /// What the output should show, or what to change.
    pub prompt: String,
    /// The pictures to edit, and the mask.
    pub pictures: InputPictures,
}

impl<T: Into<String>> From<T> for OmniInput {
    fn from(prompt: T) -> Self {
        OmniInput { prompt: prompt.into(), pictures: InputPictures::default() }
    }
}

/// Reads pictures to edit (PNG, JPEG, WebP or GIF) and a mask from files, by the rules of the server's edits. Pictures
/// are turned upright, converted to sRGB and laid on white. A mask has the size of the first picture; the transparent
/// area of the mask is edited.
///
/// # Errors
/// A file cannot be read, or is not such a picture.
pub fn open_pictures(images: &[impl AsRef<Path>], mask: Option<&Path>) -> Result<InputPictures, Error> {
    let files = images.iter().map(|path| read(path.as_ref())).collect::<Result<_, _>>()?;
    Ok(input_pictures(files, mask.map(read).transpose()?)?)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::File { action: "read", path: path.display().to_string(), source })
}
