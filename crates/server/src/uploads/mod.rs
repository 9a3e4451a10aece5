//! Everything that touches bytes which nobody vouches for: bodies, forms, pictures and where they are fetched from, and the
//! memory that they hold. What they mean is `api`'s to say.

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
