//! Everything that handles untrusted bytes: bodies, forms, pictures and fetching them, and the memory that they hold.
//! `api` interprets the values.

mod attachments;
mod blocks;
mod body;
mod client;
mod config;
mod data_url;
mod held_memory;
mod json;
mod multipart;
mod pictures;
mod receive;
mod remote;
mod sources;

pub(crate) use body::linger;
pub(crate) use client::Client;
pub use config::UploadConfig;
pub(crate) use held_memory::{MemoryBounds, MemoryLedger};
#[cfg(test)]
pub(crate) use receive::read;
pub(crate) use receive::{Received, no_variations, receive};
pub use remote::{ImageFetcher, ImageUrlHost, ImageUrlSchemes, ImageUrls, InvalidHost};
