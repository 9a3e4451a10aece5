//! Picture files. Those that strangers send are decoded within bounds, upright, in sRGB and on white; those that are made
//! are written as PNG, JPEG or WebP.
//!
//! What a file claims is checked before it is believed, and before memory is taken for it.

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
