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
    /// The seed that reproduces this picture.
    pub seed: u64,
    /// A report of each denoising step.
    pub steps: Vec<StepReport>,
    /// Warnings about the request: parameters without effect, what the model could not do, how it used a mask.
    pub warnings: Vec<String>,
    /// Time of each stage of the whole call.
    pub timings: Timings,
}

/// Time of each stage of a call.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    /// Encoding prompts and drawing noise.
    pub encode: Duration,
    /// All denoising steps.
    pub denoise: Duration,
    /// Decoding latents to pixels.
    pub decode: Duration,
}

impl GeneratedImage {
    /// Writes the picture in the format of the file extension (png, jpg, webp).
    ///
    /// # Errors
    /// The extension is unknown, or the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        save_image(&self.image, path.as_ref())
    }
}

/// Writes a picture atomically, in the format of the file extension (png, jpg, webp).
///
/// # Errors
/// The extension is unknown, or the file cannot be written.
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
