//! Making pictures.

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use diffusion::ImageRequest;
use scheduler::{JobOptions, SubmitError, Ticket};
use tracing::Instrument;

use super::jobs;
use crate::access::Caller;
use crate::access_log::LogEntry;
use crate::answer::body::body;
use crate::answer::stream::stream;
use crate::answer::terms::Terms;
use crate::error::ApiError;
use crate::idempotency::{self, Begun};
use crate::live::{Live, Watcher};
use crate::public_url::public_url;
use crate::request::{self, Delivery, Endpoint, ImagesRequest, job_options};
use crate::run::Run;
use crate::state::AppState;

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

/// Whatever form the answer has, dropping it gives its run up, unless others watch that too: hyper drops
/// this future, or the stream that it made, when the client leaves.
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
            request::linger(request);
            return Err(err);
        }
    };
    let bounds = state.card().ok().map(|card| card.input_images);
    let asked = request::read(endpoint, request, &state.config, &state.uploads, bounds.as_ref()).await?;
    let options = job_options(&headers, asked.priority, caller.owner)?;
    let public_url = public_url(state.config.public_url.as_deref(), &headers, &uri);
    let (begun, watcher, is_replay) = match key {
        None => {
            let (begun, watcher) = begin(&state, &log, asked, options, public_url).await?;
            (begun, watcher, false)
        }
        Some(key) => {
            let (asked, digest) = digested(asked).await?;
            let begin = begin(&state, &log, asked, options, public_url);
            state.replays.once(key, digest, state.clock.now(), begin).await?
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

/// Submits what was asked for.
async fn begin(
    state: &AppState,
    log: &LogEntry,
    mut asked: ImagesRequest,
    options: JobOptions,
    public_url: String,
) -> Result<(Begun, Watcher), ApiError> {
    let card = state.card().inspect_err(|err| state.metrics.refused(err))?;
    let requests = asked.image_requests(&card, &state.config.limits, rand::random)?;
    let terms = Terms::new(&asked, &requests, &card, &state.config, public_url);
    note(log, &terms, options);
    let now = state.clock.now();
    if asked.run_async {
        state.jobs.check_room(now)?;
    }
    let (owner, pictures) = (options.owner, requests.len());
    state.access.count_rest(owner, pictures)?;
    let submitted = submit(state, requests, options).await;
    let tickets = submitted.inspect_err(|_| state.access.give_rest_back(owner, pictures))?;
    let watcher = Live::start(Run::new(tickets), terms, state);
    if !asked.run_async {
        return Ok((Begun::Live(watcher.live.clone()), watcher));
    }
    let job = state.jobs.add(watcher.live.clone(), options.owner, now)?;
    tokio::spawn(jobs::follow(job.live.watch(), log.clone()).in_current_span());
    Ok((Begun::Job(job), watcher))
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

/// A request with the digest of what it means.
async fn digested(asked: ImagesRequest) -> Result<(ImagesRequest, [u8; 32]), ApiError> {
    let digested = tokio::task::spawn_blocking(move || {
        let digest = idempotency::digest(&asked);
        (asked, digest)
    });
    digested.await.map_err(|err| ApiError::Internal(format!("reading the request: {err}")))
}

fn note(log: &LogEntry, terms: &Terms, options: JobOptions) {
    log.write(|line| {
        line.priority = Some(options.priority);
        line.model = Some(terms.model.clone());
        line.n = Some(terms.seeds.len());
        line.size = Some(terms.size.to_string());
        line.steps = Some(terms.num_inference_steps);
    });
}
