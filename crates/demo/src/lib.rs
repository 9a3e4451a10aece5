//! The built-in model: a small Qwen-Image in the diffusers layout, inside the binary.
//!
//! A fresh machine has no weights and Qwen-Image is 58 GB, so latentd carries a model of its own:
//! the same classes, file names and code path, 128x128 pixels, trained on drawn pictures by the
//! Python in `train/`. The cost is 29 MB of binary; in return everything can be developed, tested
//! and shown on a trained model.
//!
//! [`FILES`] is the checkpoint; [`SUBJECTS`], [`GROUNDS`] and [`EXAMPLE_PROMPTS`] say what it can draw.

mod files;
mod grammar;

pub use files::{FILES, File, file};
/// What `latentd cache calibrate --steps 20 --dtype f32` measured of it, with the prompts of [`calibration_prompts`].
pub const CALIBRATION: &str = include_str!("../calibration.json");

pub use grammar::{EXAMPLE_PROMPTS, GROUNDS, PLACES, SIZE, SIZES, SUBJECTS, calibration_prompts};
