//! Answers: from finished pictures to bytes.

pub(crate) mod base64;
pub(crate) mod body;
pub(crate) mod cache_report;
pub mod cache_summary;
pub(crate) mod events;
pub(crate) mod metadata;
pub(crate) mod openai;
pub(crate) mod picture;
pub(crate) mod pieces;
pub(crate) mod step;
pub(crate) mod terms;
