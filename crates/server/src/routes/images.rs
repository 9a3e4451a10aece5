//! Making pictures.

use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use diffusion::{ImageRequest, ImageSize};
use futures_util::future::try_join_all;
use scheduler::{Generated, JobOptions, SubmitError, Ticket, Timings};
use tracing::Span;

use crate::access::Caller;
use crate::access_log::{GenerationLog, LogEntry};
use crate::answer::cache_report::CacheReport;
use crate::answer::cache_summary;
use crate::answer::encode::encode;
use crate::answer::openai::{ImageData, ImagesResponse, StageTimings, Usage};
use crate::error::ApiError;
use crate::request::{self, Endpoint, ImagesRequest, job_options};
use crate::state::{AppState, unix_seconds};

/// Most bytes of the `x-ignored-params` header.
const MAX_IGNORED_LEN: usize = 1024;

/// `POST /v1/images/generations`.
pub(crate) async fn generate(
    State(state): State<AppState>,
    Extension(log): Extension<LogEntry>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, ApiError> {
    make(Endpoint::Generation, state, log, caller, request).await
}

/// `POST /v1/images/edits`.
pub(crate) async fn edit(
    State(state): State<AppState>,
    Extension(log): Extension<LogEntry>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, ApiError> {
    make(Endpoint::Edit, state, log, caller, request).await
}

/// `POST /v1/images/variations`.
pub(crate) async fn vary(request: Request) -> ApiError {
    request::no_variations(request)
}

/// All pictures or an error; when the client leaves, hyper drops this future, and the tickets in it
/// cancel their jobs.
async fn make(
    endpoint: Endpoint,
    state: AppState,
    log: LogEntry,
    caller: Caller,
    request: Request,
) -> Result<Response, ApiError> {
    let config = &state.config;
    let headers = request.headers().clone();
    let mut asked = request::read(endpoint, request, config).await?;
    let options = job_options(&headers, asked.priority, caller.owner)?;
    let card = state.card().inspect_err(|err| state.metrics.refused(err))?;
    let cache_config = asked.cache.as_ref().or(config.cache.as_ref()).cloned();
    let requests = asked.image_requests(&card, &config.limits, rand::random)?;
    log.write(|line| note_request(line, config.model_id(), &requests, options));

    let seeds = requests.iter().map(|request| request.params.seed).collect();
    let ignored = ignored_params(&asked.ignored);
    let tickets = submit(&state, requests, options).await?;
    let pictures = try_join_all(tickets.into_iter().map(Ticket::finished)).await?;

    let timings = slowest(&pictures);
    let position = pictures.iter().map(|picture| picture.position).min().unwrap_or(0);
    log.write(|line| note_pictures(line, timings, position));
    let caches: Vec<_> = cache_config
        .iter()
        .flat_map(|cache_config| {
            pictures.iter().map(|picture| CacheReport::new(&picture.steps, cache_config, &card.num_blocks))
        })
        .collect();
    if let (true, Some(cache_config)) = (config.cache_summary, &cache_config) {
        for picture in &pictures {
            let stats = cache_summary::stats(&picture.steps, cache_config, &card.num_blocks);
            tracing::info!(cache = cache_summary::line(&picture.steps, &stats), "cache summary");
        }
    }
    let answer = Answer { model: config.model_id().to_owned(), asked, pictures, seeds, timings, caches };
    let begun = Instant::now();
    let body = encoded(answer).await?;
    state.metrics.images_encoded(begun.elapsed());
    log.write(|line| line.encode_image_ms = Some(ms(begun.elapsed())));
    let mut response = ([(header::CONTENT_TYPE, "application/json")], body).into_response();
    let headers = response.headers_mut();
    headers.insert(HeaderName::from_static("x-queue-ms"), HeaderValue::from(timings.queue_ms as u64));
    headers.insert(HeaderName::from_static("x-queue-position"), HeaderValue::from(position));
    if let Some(ignored) = ignored {
        headers.insert(HeaderName::from_static("x-ignored-params"), ignored);
    }
    Ok(response)
}

async fn submit(state: &AppState, requests: Vec<ImageRequest>, options: JobOptions) -> Result<Vec<Ticket>, ApiError> {
    let load = *state.scheduler.load().borrow();
    let is_idle = load.waiting + load.running == 0;
    let submitted = state.scheduler.submit_all(requests, options).await;
    submitted.map_err(|err| match err {
        SubmitError::TooLate { .. } if is_idle => ApiError::NeverInTime(err),
        err => err.into(),
    })
}

/// The body of `answer`, made on a blocking thread.
async fn encoded(answer: Answer) -> Result<Vec<u8>, ApiError> {
    let span = Span::current();
    let body = tokio::task::spawn_blocking(move || span.in_scope(|| answer.into_json())).await;
    body.map_err(|err| ApiError::Internal(format!("encoding the picture: {err}")))?
}

/// Everything that the body of the answer is made of.
struct Answer {
    model: String,
    asked: ImagesRequest,
    pictures: Vec<Generated>,
    seeds: Vec<u64>,
    timings: StageTimings,
    /// One a picture, where there is a cache.
    caches: Vec<CacheReport>,
}

impl Answer {
    /// Encodes the pictures and writes the JSON: milliseconds of work, for a blocking thread.
    fn into_json(self) -> Result<Vec<u8>, ApiError> {
        let Answer { model, asked, pictures, seeds, timings, caches } = self;
        let ImagesRequest { output, quality, return_timings, return_cache_stats, .. } = asked;
        let mut caches = caches.into_iter().filter(|_| return_cache_stats);
        let size = pictures.first().map_or(ImageSize { width: 0, height: 0 }, |picture| picture.image.size);
        let prompt_tokens = pictures.iter().map(|picture| picture.prompt_tokens).max().unwrap_or(0);
        let usage = Usage::generation(prompt_tokens, size.image_seq_len() * pictures.len());
        let warnings = warnings(&pictures);
        let data = pictures.iter().zip(seeds).map(|(picture, seed)| {
            let file = encode(&picture.image, output.format, output.compression);
            let file = file.map_err(|err| ApiError::Internal(format!("encoding the picture: {err}")))?;
            Ok(ImageData { b64_json: STANDARD.encode(file), seed, cache: caches.next() })
        });
        let response = ImagesResponse {
            created: unix_seconds(),
            model,
            data: data.collect::<Result<_, ApiError>>()?,
            background: "opaque",
            output_format: output.format.name(),
            quality,
            size: size.to_string(),
            usage,
            timings: return_timings.then_some(timings),
            warnings,
        };
        serde_json::to_vec(&response).map_err(|err| ApiError::Internal(format!("writing the answer: {err}")))
    }
}

/// What the sender should know, each sentence once.
fn warnings(pictures: &[Generated]) -> Vec<String> {
    let mut warnings: Vec<String> = pictures.iter().flat_map(|picture| picture.warnings.clone()).collect();
    warnings.dedup();
    warnings
}

fn note_request(line: &mut GenerationLog, model: &str, requests: &[ImageRequest], options: JobOptions) {
    line.priority = Some(options.priority);
    line.model = Some(model.to_owned());
    line.n = Some(requests.len());
    line.size = requests.first().map(|request| request.params.size.to_string());
    line.steps = requests.first().map(|request| request.params.num_inference_steps);
}

fn note_pictures(line: &mut GenerationLog, timings: StageTimings, position: usize) {
    line.timings = Some(timings);
    line.queue_position = Some(position);
}

/// Of each stage, the slowest picture's.
fn slowest(pictures: &[Generated]) -> StageTimings {
    let max = |stage: fn(&Timings) -> Duration| {
        ms(pictures.iter().map(|picture| stage(&picture.timings)).max().unwrap_or_default())
    };
    StageTimings {
        queue_ms: max(|timings| timings.queue),
        text_encoder_ms: max(|timings| timings.encode),
        denoise_ms: max(|timings| timings.denoise),
        vae_ms: max(|timings| timings.decode),
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// The names of ignored fields, for a header: escaped, since a client may call them anything.
fn ignored_params(names: &[String]) -> Option<HeaderValue> {
    let mut list = String::new();
    for name in names {
        let escaped: String = name.escape_default().take(MAX_IGNORED_LEN).collect();
        if list.len() + escaped.len() > MAX_IGNORED_LEN {
            break;
        }
        let separator = if list.is_empty() { "" } else { ", " };
        list = list + separator + &escaped;
    }
    (!list.is_empty()).then(|| HeaderValue::from_str(&list).expect("escapes are printable ASCII. This is a bug."))
}
