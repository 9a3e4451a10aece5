//! Picture files. Untrusted files are decoded within limits, upright, in sRGB and on white. Results are written as PNG,
//! JPEG or WebP.
//!
//! A file's claims are checked before memory is allocated for it.

mod bounds;
mod colour;
mod file;
mod input;
mod mask;
mod output;
mod place;
#[cfg(test)]
mod tests;

pub use bounds::MAX_PIXELS;
pub use file::{Footprint, PictureFile};
pub use input::{InputFiles, InputPictures, input_pictures};
pub use mask::{MASK, Sides, check_mask, decode_mask};
pub use output::{OutputFormat, encode};
pub use place::{PictureError, Place};
