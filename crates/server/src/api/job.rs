//! An async job as its client sees it.

use serde::Serialize;
use utoipa::ToSchema;

use super::answer::openai::{ErrorBody, ImagesResponse};
use super::answer::pieces::{Framed, Frames};

/// An async job.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ImageJob {
    pub(crate) id: String,
    /// `image.job`.
    pub(crate) object: &'static str,
    /// `queued`, `in_progress`, `completed`, `failed` or `cancelled`.
    pub(crate) status: &'static str,
    /// Percentage of the steps that are done.
    pub(crate) progress: usize,
    /// Jobs ahead of it, while it is queued.
    pub(crate) queue_position: Option<usize>,
    /// Seconds since 1970.
    pub(crate) created_at: u64,
    /// Time until which it is kept, in seconds since 1970; null until it has ended.
    pub(crate) expires_at: Option<u64>,
    pub(crate) error: Option<ErrorBody>,
    pub(crate) result: Option<ImagesResponse>,
}

impl Framed for ImageJob {
    fn frame(&self, json: &mut Frames) {
        // The pattern is exhaustive, so that the compiler reports a new field.
        let ImageJob { id, object, status, progress, queue_position, created_at, expires_at, error, result } = self;
        json.object(|fields| {
            fields.plain("id", id);
            fields.plain("object", object);
            fields.plain("status", status);
            fields.plain("progress", progress);
            fields.plain("queue_position", queue_position);
            fields.plain("created_at", created_at);
            fields.plain("expires_at", expires_at);
            fields.plain("error", error);
            fields.framed("result", result);
        });
    }
}
