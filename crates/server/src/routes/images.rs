//! Handlers that make pictures.

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use scheduler::JobOptions;
use tracing::Instrument;

use super::jobs;
use crate::access::Caller;
use crate::access_log::LogEntry;
use crate::api::answer::body::body;
use crate::api::answer::terms::AnswerTerms;
use crate::api::error::ApiError;
use crate::api::request::{Delivery, Endpoint, job_options};
use crate::expiry;
use crate::idempotency::{self, Begun};
use crate::live::{OngoingRun, Watcher};
use crate::public_url::public_url;
use crate::routes::stream::stream;
use crate::run::Run;
use crate::state::AppState;
use crate::uploads::{self, Received};

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
    uploads::no_variations(request)
}

/// Serves a request that makes pictures. Dropping the returned future or stream drops the request's watcher, and with
/// its last watcher the run is cancelled: hyper drops them when the client leaves.
async fn make(
    endpoint: Endpoint,
    state: AppState,
    log: LogEntry,
    caller: Caller,
    request: Request,
) -> Result<Response, ApiError> {
    let (headers, uri) = (request.headers().clone(), request.uri().clone());
    let key = match idempotency::key(&headers, caller.owner) {
        Ok(key) => key,
        Err(err) => {
            uploads::linger(request);
            return Err(err);
        }
    };
    let memory = state.uploads.none(caller.client);
    let bounds = state.card().ok().map(|card| card.input_images);
    let received =
        uploads::receive(endpoint, request, &state.config.api, &state.config.uploads, memory, bounds.as_ref()).await?;
    let options = job_options(&headers, &received.asked, caller.owner)?;
    let public_url = public_url(state.config.public_url.as_deref(), &headers, &uri);
    let begin = |received| begin(&state, &log, received, options, public_url);
    let (begun, watcher, is_replay) = match key {
        None => {
            let (begun, watcher) = begin(received).await?;
            (begun, watcher, false)
        }
        Some(key) => {
            let (received, digest) = digested(received).await?;
            let now = state.clock.now();
            let can_be_told = |begun: &Begun| expiry::can_be_told(&state, begun, now);
            state.replays.once(key, digest, now, can_be_told, begin(received)).await?
        }
    };
    if is_replay {
        note(&log, &watcher.live.terms, options);
    }
    let mut response = answer(begun, watcher, log).await?;
    if is_replay {
        response.headers_mut().insert(HeaderName::from_static("idempotent-replayed"), HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// Submits the request. Every check that needs no picture runs before pictures are fetched or decoded.
async fn begin(
    state: &AppState,
    log: &LogEntry,
    Received { mut asked, mut attachments }: Received,
    options: JobOptions,
    public_url: String,
) -> Result<(Begun, Watcher), ApiError> {
    let card = state.card().inspect_err(|err| state.metrics.refused(err))?;
    let limits = &state.config.api.limits;
    asked.check(&attachments, &card, limits)?;
    if asked.run_async {
        state.jobs.check_room(state.clock.now())?;
    }
    let counted = state.access.count_rest(options.owner, asked.draft.n()?)?;
    if attachments.are_elsewhere() {
        attachments = attachments.judged(card.input_images, &state.pictures).await?;
        let least = asked.least_requests(&card, limits)?;
        state.queue.check(least, options).await?;
    }
    let pictures = attachments.decoded(state.config.uploads.image_urls.as_ref(), &state.pictures).await?;
    let requests = asked.image_requests(pictures, &card, limits, rand::random)?;
    let terms = AnswerTerms::new(&asked, &requests, &card, &state.config.api, public_url);
    note(log, &terms, options);
    let audits = state.audits.choose(&requests, terms.cache.as_ref());
    let options = JobOptions { latents: audits.iter().any(Option::is_some), ..options };
    let tickets = state.queue.submit_all(requests, options).await?;
    counted.begun();
    let watcher = OngoingRun::start(Run::new(tickets), terms, audits, state.run_services());
    if !asked.run_async {
        return Ok((Begun::Live(watcher.live.clone()), watcher));
    }
    let job = state.jobs.add(watcher.live.clone(), options.owner, state.clock.now())?;
    tokio::spawn(jobs::follow(job.live.watch(), log.clone()).in_current_span());
    Ok((Begun::Job(job), watcher))
}

async fn answer(begun: Begun, watcher: Watcher, log: LogEntry) -> Result<Response, ApiError> {
    let terms = watcher.live.terms.clone();
    match (begun, terms.delivery) {
        (Begun::Job(job), _) => Ok(jobs::accepted(&job)),
        (Begun::Live(_), Delivery::Stream(_)) => Ok(stream(watcher, log)),
        (Begun::Live(_), Delivery::Json(_) | Delivery::File) => {
            let pictures = watcher.finished().await?;
            log.pictures(&pictures);
            Ok(body(&terms, &pictures))
        }
    }
}

/// Adds the digest of what the request asks for.
async fn digested(received: Received) -> Result<(Received, [u8; 32]), ApiError> {
    let digested = tokio::task::spawn_blocking(move || {
        let digest = idempotency::digest(&received);
        (received, digest)
    });
    digested.await.map_err(|err| ApiError::Internal(format!("reading the request: {err}")))
}

fn note(log: &LogEntry, terms: &AnswerTerms, options: JobOptions) {
    log.write(|line| {
        line.priority = Some(options.priority);
        line.model = Some(terms.model.clone());
        line.n = Some(terms.seeds.len());
        line.size = Some(terms.size.to_string());
        line.steps = Some(terms.num_inference_steps);
    });
}
