//! What a request asks for, once it is read.

use cache::CacheConfig;
use diffusion::{RequestDraft, WithoutEffect};

use pictures::OutputFormat;

/// Most previews of a picture that are counted out (OpenAI's bound).
pub(crate) const MAX_PARTIAL_IMAGES: i64 = 3;

/// What is done with a request's prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// A picture from nothing but words.
    Generation,
    /// A picture from words and pictures.
    Edit,
}

/// A request whose every field has the right type and a value that some model takes.
#[derive(Debug)]
pub(crate) struct ImagesRequest {
    pub(crate) endpoint: Endpoint,
    /// What the picture shall be. [`ImagesRequest::image_requests`] makes it whole.
    pub(crate) draft: RequestDraft,
    pub(crate) output: Output,
    /// What the answer says of the quality.
    pub(crate) quality: &'static str,
    pub(crate) delivery: Delivery,
    /// The answer is a job to ask after (`async: true` or `Prefer: respond-async`).
    pub(crate) run_async: bool,
    pub(crate) return_timings: bool,
    pub(crate) return_cache_stats: bool,
    /// Its urgency, 0 unless it says so.
    pub(crate) priority: i8,
    /// The request's own cache settings.
    pub(crate) cache: Option<CacheConfig>,
    /// The client's name for its user, which the answer repeats.
    pub(crate) safety_identifier: Option<String>,
    /// Names of fields that were given and have no effect.
    pub(crate) ignored: Vec<String>,
    /// Why those that mean something elsewhere have none, in sentences.
    pub(crate) warnings: Vec<String>,
}

/// The files that are made of the pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Output {
    pub(crate) format: OutputFormat,
    /// JPEG's quality, 0 to 100.
    pub(crate) compression: u8,
    /// Whether a PNG says how it was made, its prompt included.
    pub(crate) embed_metadata: bool,
}

/// How the pictures reach the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// All of them in one JSON object.
    Json(ImageField),
    /// The bytes of the one picture.
    File,
    /// As server-sent events.
    Stream(StreamOptions),
}

/// Which field of the JSON holds a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ImageField {
    B64Json,
    Url,
}

/// What a stream tells beside the finished pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamOptions {
    /// An event a step.
    pub(crate) progress: bool,
}

/// Where the pictures stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResponseFormat {
    Field(ImageField),
    File,
}

impl ImagesRequest {
    /// Remembers a field that has no effect.
    pub(crate) fn note(&mut self, idle: WithoutEffect) {
        self.warnings.push(idle.to_string());
        if !self.ignored.iter().any(|name| name == idle.field) {
            self.ignored.push(idle.field.to_owned());
        }
    }

    /// Whether the client waits for the answer in one piece, and is told nothing before it.
    pub(crate) fn is_waited_for(&self) -> bool {
        !self.run_async && !matches!(self.delivery, Delivery::Stream(_))
    }
}
