//! A job as whoever asks after it is told.

use serde::Serialize;
use utoipa::ToSchema;

use super::answer::openai::{ErrorBody, ImagesResponse};

/// A job as it is told.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ImageJob {
    pub(crate) id: String,
    /// `image.job`.
    pub(crate) object: &'static str,
    /// `queued`, `in_progress`, `completed`, `failed` or `cancelled`.
    pub(crate) status: &'static str,
    /// Steps that are done, in percent.
    pub(crate) progress: usize,
    /// Jobs that are before it in line, while it is queued.
    pub(crate) queue_position: Option<usize>,
    /// Seconds since 1970.
    pub(crate) created_at: u64,
    /// Until when it is kept, in seconds since 1970: known once it has ended.
    pub(crate) expires_at: Option<u64>,
    pub(crate) error: Option<ErrorBody>,
    pub(crate) result: Option<ImagesResponse>,
}
