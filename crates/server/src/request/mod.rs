//! From the bytes of a request to what is meant by them.

mod fields;
mod job_options;
pub(crate) mod json;
pub(crate) mod step_cache;
pub(crate) mod validate;

pub(crate) use job_options::job_options;
