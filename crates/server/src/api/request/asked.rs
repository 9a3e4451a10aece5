//! A parsed request.

use cache::CacheConfig;
use diffusion::{RequestDraft, WithoutEffect};

use pictures::OutputFormat;

/// Most previews that `partial_images` may ask for (OpenAI's bound).
pub(crate) const MAX_PARTIAL_IMAGES: i64 = 3;

/// The kind of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// A picture from text alone.
    Generation,
    /// A picture from text and pictures.
    Edit,
}

/// A request whose fields all have the right type and a value that some model accepts.
#[derive(Debug)]
pub(crate) struct ImagesRequest {
    pub(crate) endpoint: Endpoint,
    /// The picture that is asked for. [`ImagesRequest::image_requests`] completes it.
    pub(crate) draft: RequestDraft,
    pub(crate) output: Output,
    /// The quality that the answer reports.
    pub(crate) quality: &'static str,
    pub(crate) delivery: Delivery,
    /// The answer is an async job (`async: true` or `Prefer: respond-async`).
    pub(crate) run_async: bool,
    pub(crate) return_timings: bool,
    pub(crate) return_cache_stats: bool,
    /// Priority, 0 by default.
    pub(crate) priority: i8,
    /// The request's own step cache settings.
    pub(crate) cache: Option<CacheConfig>,
    /// The client's identifier of its user, which the answer repeats.
    pub(crate) safety_identifier: Option<String>,
    /// Names of given fields without effect.
    pub(crate) ignored: Vec<String>,
    /// Sentences on why fields that have a meaning elsewhere have no effect.
    pub(crate) warnings: Vec<String>,
}

/// How the picture files are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Output {
    pub(crate) format: OutputFormat,
    /// JPEG quality, 0 to 100.
    pub(crate) compression: u8,
    /// Whether a PNG contains its generation parameters, the prompt included.
    pub(crate) embed_metadata: bool,
}

/// How the pictures are delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// All pictures in one JSON object.
    Json(ImageField),
    /// The file of the only picture.
    File,
    /// Server-sent events.
    Stream(StreamOptions),
}

/// The JSON field that holds a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ImageField {
    B64Json,
    Url,
}

/// Stream events besides the finished pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamOptions {
    /// An event for each step.
    pub(crate) progress: bool,
}

/// Value of `response_format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResponseFormat {
    Field(ImageField),
    File,
}

impl ImagesRequest {
    /// Records a field without effect.
    pub(crate) fn note(&mut self, idle: WithoutEffect) {
        self.warnings.push(idle.to_string());
        if !self.ignored.iter().any(|name| name == idle.field) {
            self.ignored.push(idle.field.to_owned());
        }
    }

    /// Whether the client waits for one complete answer, without a sign of life before it.
    pub(crate) fn is_waited_for(&self) -> bool {
        !self.run_async && !matches!(self.delivery, Delivery::Stream(_))
    }
}
