//! Stream events in wire format: OpenAI's, and this server's additions.
//!
//! Each is an `event:` line with its type and one `data:` line of JSON. There is never an `id:` line, because
//! openai-python fails on comments after one.

use axum::body::Bytes;
use axum::response::sse::Event;
use diffusion::{BlockRun, StepReport};
use serde::Serialize;
use utoipa::ToSchema;

use super::base64::Base64;
use super::cache_report::CacheReport;
use super::openai::{ErrorBody, StageTimings, Usage};
use super::picture::{FinishedPicture, Partial};
use super::step::Step;
use super::terms::AnswerTerms;
use crate::api::error::ApiError;
use crate::api::request::Endpoint;

/// Fields of every event with a picture.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EventImage {
    #[schema(inline)]
    b64_json: Base64,
    /// Seconds since 1970.
    created_at: u64,
    size: String,
    quality: &'static str,
    /// `transparent` or `opaque`.
    background: &'static str,
    output_format: &'static str,
    /// Index of the picture, from 0 in the order of the seeds.
    image_index: usize,
}

/// A preview of a picture.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PartialImageEvent {
    /// `image_generation.partial_image` or `image_edit.partial_image`.
    r#type: &'static str,
    #[serde(flatten)]
    image: EventImage,
    /// Index of the preview, from 0.
    partial_image_index: usize,
    /// The step after which the preview was made, from 0.
    step_index: usize,
}

/// A finished picture.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CompletedEvent {
    /// `image_generation.completed` or `image_edit.completed`.
    r#type: &'static str,
    #[serde(flatten)]
    image: EventImage,
    /// The usage of this picture.
    usage: Usage,
    /// The seed that makes this picture again.
    seed: u64,
    /// The id of the model that was used.
    model: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    timings: Option<StageTimings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache: Option<CacheReport>,
    /// The client's identifier of its user, from the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    safety_identifier: Option<String>,
    /// Sentences on how the answer differs from the request: options that are not supported, how a mask was used.
    warnings: Vec<String>,
}

/// A step of a picture; sent only with `stream_progress`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProgressEvent {
    /// `image_generation.progress` or `image_edit.progress`.
    r#type: &'static str,
    image_index: usize,
    /// Seconds since 1970.
    created_at: u64,
    /// The step that was taken, from 0.
    step_index: usize,
    /// Steps of the picture. With the sampler `heun` each run of the transformer counts as one: 2n - 1 for n requested
    /// steps.
    num_inference_steps: usize,
    /// Share of the transformer's blocks that ran, 0 to 1.
    computed_share: f64,
    /// The step cache's threshold; null without a cache.
    residual_diff_threshold: Option<f64>,
    runs: Vec<ProgressRun>,
}

/// One guidance branch in one segment.
#[derive(Debug, Serialize, ToSchema)]
struct ProgressRun {
    branch: &'static str,
    segment: &'static str,
    reused: bool,
    /// Reason of the decision, as one word.
    reason: &'static str,
    /// Relative change of the first blocks' residual, if it was measured.
    residual_diff: Option<f32>,
}

/// A picture is restarted from its first step; sent only with `stream_progress`. The server failed, or had too little
/// memory. The `progress` events begin again from step 0, and the picture will be the same. Previews that were sent are
/// not repeated.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RestartedEvent {
    /// `image_generation.restarted` or `image_edit.restarted`.
    r#type: &'static str,
    image_index: usize,
    /// Seconds since 1970.
    created_at: u64,
}

/// A failure after the stream began. It is the last event.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ErrorEvent {
    /// `error`.
    r#type: &'static str,
    error: ErrorBody,
}

/// The event of a preview. Encoding base64 takes time, so it must not run on the event loop.
pub(crate) fn partial_image(terms: &AnswerTerms, partial: &Partial) -> Event {
    let r#type = names(terms.endpoint).partial_image;
    let image = EventImage::new(terms, &partial.file, partial.created_at, partial.image_index);
    let Partial { partial_image_index, step_index, .. } = *partial;
    event(r#type, &PartialImageEvent { r#type, image, partial_image_index, step_index })
}

/// The event of a finished picture. Encoding base64 takes time, so it must not run on the event loop.
pub(crate) fn completed(terms: &AnswerTerms, picture: &FinishedPicture) -> Event {
    let r#type = names(terms.endpoint).completed;
    let completed = CompletedEvent {
        r#type,
        image: EventImage::new(terms, &picture.file, picture.created_at, picture.image_index),
        usage: terms.usage(picture.prompt_tokens, 1),
        seed: picture.seed,
        model: terms.model.clone(),
        timings: terms.return_timings.then(|| StageTimings::slowest(&[picture.timings])),
        cache: picture.cache.clone().filter(|_| terms.return_cache_stats),
        safety_identifier: terms.safety_identifier.clone(),
        warnings: picture.warnings.clone(),
    };
    event(r#type, &completed)
}

/// The event of a step.
pub(crate) fn progress(terms: &AnswerTerms, step: &Step) -> Event {
    let r#type = names(terms.endpoint).progress;
    let StepReport { step_index, computed_share, ref runs, .. } = step.report;
    let run = |run: &BlockRun| ProgressRun {
        branch: run.branch.name(),
        segment: run.segment,
        reused: run.reused,
        reason: run.reason,
        residual_diff: run.residual_diff,
    };
    let progress = ProgressEvent {
        r#type,
        image_index: step.image_index,
        created_at: step.created_at,
        step_index,
        num_inference_steps: terms.num_evaluations,
        computed_share,
        residual_diff_threshold: terms.cache.as_ref().map(|cache| cache.residual_diff_threshold),
        runs: runs.iter().map(run).collect(),
    };
    event(r#type, &progress)
}

/// The event of a restarted picture.
pub(crate) fn restarted(terms: &AnswerTerms, image_index: usize, created_at: u64) -> Event {
    let r#type = names(terms.endpoint).restarted;
    event(r#type, &RestartedEvent { r#type, image_index, created_at })
}

/// The event of a failure.
pub(crate) fn error(err: &ApiError) -> Event {
    let r#type = "error";
    event(r#type, &ErrorEvent { r#type, error: err.body() })
}

impl EventImage {
    fn new(terms: &AnswerTerms, file: &Bytes, created_at: u64, image_index: usize) -> Self {
        EventImage {
            b64_json: Base64(file.clone()),
            created_at,
            size: terms.size.to_string(),
            quality: terms.quality,
            background: "opaque",
            output_format: terms.output.format.name(),
            image_index,
        }
    }
}

fn event(name: &str, data: &impl Serialize) -> Event {
    Event::default().event(name).json_data(data).expect("keys are strings. This is a bug.")
}

struct Names {
    partial_image: &'static str,
    progress: &'static str,
    restarted: &'static str,
    completed: &'static str,
}

fn names(endpoint: Endpoint) -> Names {
    match endpoint {
        Endpoint::Generation => Names {
            partial_image: "image_generation.partial_image",
            progress: "image_generation.progress",
            restarted: "image_generation.restarted",
            completed: "image_generation.completed",
        },
        Endpoint::Edit => Names {
            partial_image: "image_edit.partial_image",
            progress: "image_edit.progress",
            restarted: "image_edit.restarted",
            completed: "image_edit.completed",
        },
    }
}
