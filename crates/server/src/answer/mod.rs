//! From finished pictures to the bytes of an answer.

pub(crate) mod cache_report;
pub mod cache_summary;
pub(crate) mod encode;
pub(crate) mod openai;
