//! The built-in model: a small Qwen-Image in the diffusers layout, embedded in the binary.
//!
//! A fresh machine has no weights, and Qwen-Image is 58 GB. latentd therefore carries a small model with the same
//! classes, file names and code path. It draws 128x128 pixels and was trained on drawn pictures by the Python in
//! `train/`. It costs 29 MB of binary. In return everything can be developed, tested and shown with a trained model.
//!
//! [`FILES`] is the checkpoint; [`SUBJECTS`], [`GROUNDS`] and [`EXAMPLE_PROMPTS`] list what the model can draw.

mod files;
mod grammar;

pub use files::{FILES, File, file};
/// The model's calibration, measured by `latentd cache calibrate --steps 20 --dtype f32` with [`calibration_prompts`].
pub const CALIBRATION: &str = include_str!("../calibration.json");

pub use grammar::{EXAMPLE_PROMPTS, GROUNDS, PLACES, SIZE, SIZES, SUBJECTS, calibration_prompts};
