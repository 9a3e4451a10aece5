//! Finished pictures.

use std::io::Cursor;
use std::path::Path;
use std::time::Duration;

use diffusion::{RgbImage, StepReport};
use image::{ColorType, ImageFormat};

use crate::error::Error;
use crate::whole_file::write_whole;

/// A finished picture.
#[derive(Clone, Debug)]
pub struct GeneratedImage {
    /// The pixels.
    pub image: RgbImage,
    /// The seed that makes this picture again.
    pub seed: u64,
    /// What each step did.
    pub steps: Vec<StepReport>,
    /// What became of what was asked, in sentences: what had no effect, what the model could not do, how it used a mask.
    pub warnings: Vec<String>,
    /// Where the time of the whole call went.
    pub timings: Timings,
}

/// Where the time of a call went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    /// Prompts and noise.
    pub encode: Duration,
    /// All steps.
    pub denoise: Duration,
    /// Latents to pixels.
    pub decode: Duration,
}

impl GeneratedImage {
    /// Writes the picture; the file's ending says the format (png, jpg, webp).
    ///
    /// # Errors
    /// The ending is unknown, or the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        save_image(&self.image, path.as_ref())
    }
}

/// Writes a picture, whole or not at all; the file's ending says the format (png, jpg, webp).
///
/// # Errors
/// The ending is unknown, or the file cannot be written.
pub fn save_image(image: &RgbImage, path: &Path) -> Result<(), Error> {
    let name = || path.display().to_string();
    let (width, height) = (image.size.width as u32, image.size.height as u32);
    let mut file = Cursor::new(Vec::new());
    ImageFormat::from_path(path)
        .and_then(|format| {
            image::write_buffer_with_format(&mut file, &image.pixels, width, height, ColorType::Rgb8, format)
        })
        .map_err(|source| Error::Encode { path: name(), source })?;
    write_whole(path, file.get_ref()).map_err(|source| Error::File { action: "write", path: name(), source })
}
