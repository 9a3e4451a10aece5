//! Requests: their fields, the kinds of their values, and what the values mean.

mod asked;
mod delivery;
mod fields;
pub(crate) mod given;
mod job_options;
pub(crate) mod json;
pub(crate) mod kinds;
pub(crate) mod picture_bounds;
mod reading;
mod shown;
pub(crate) mod step_cache;
pub(crate) mod validate;
pub(crate) mod vocabulary;

pub(crate) use asked::{Delivery, Endpoint, ImageField, ImagesRequest, Output};
pub(crate) use given::Fields;
pub(crate) use job_options::job_options;
#[cfg(test)]
pub(crate) use kinds::ALIASES;
pub(crate) use kinds::listed;
pub(crate) use picture_bounds::{MAX_IMAGE_BYTES, MAX_INPUT_IMAGES, MAX_URL_CHARS};
pub(crate) use vocabulary::FIELDS;
