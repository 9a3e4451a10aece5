//! Asking after jobs, following them, and giving them up.

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::access::Caller;
use crate::access_log::LogEntry;
use crate::api::answer::body::{json, write_headers};
use crate::api::error::ApiError;
use crate::expiry;
use crate::jobs::Job;
use crate::live::{Failure, Watcher};
use crate::routes::stream::stream;
use crate::state::AppState;

/// `GET /v1/images/jobs/{id}`.
pub(crate) async fn status(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let now = state.clock.now();
    let job = state.jobs.get(&id, caller.owner, now)?;
    // Before it is told: what ends meanwhile is asked after again.
    if job.live.has_ended() {
        state.jobs.note_told(&id, now);
    }
    Ok(json(&job.told()))
}

/// `DELETE /v1/images/jobs/{id}`: gives up a job that is going on, which is then kept as `cancelled` without the
/// pictures that it had, and forgets one that has ended. The answer tells it for the last time.
pub(crate) async fn cancel(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let job = state.jobs.get(&id, caller.owner, state.clock.now())?;
    let is_given_up = !job.live.has_ended() && give_up(&job).await;
    if is_given_up {
        state.jobs.note_told(&id, state.clock.now());
    } else {
        state.jobs.remove(&id, state.clock.now());
    }
    let answer = json(&job.told());
    expiry::forget(&state, &job);
    Ok(answer)
}

/// Ends a job; whether it had not come to its end by itself before.
async fn give_up(job: &Job) -> bool {
    let watcher = job.live.watch();
    job.live.cancel();
    // It is as it is told only when the driver is gone.
    matches!(watcher.finished().await, Err(Failure::Cancelled))
}

/// `GET /v1/images/jobs/{id}/events`: what a stream of the request would tell, from the beginning. Whoever
/// leaves, leaves the job alone.
pub(crate) async fn events(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    Extension(log): Extension<LogEntry>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let now = state.clock.now();
    let job = state.jobs.get(&id, caller.owner, now)?;
    state.jobs.note_told(&id, now);
    Ok(stream(job.live.watch(), log))
}

/// The answer to the request that the job is of.
pub(super) fn accepted(job: &Job) -> Response {
    let location = HeaderValue::from_str(&format!("/v1/images/jobs/{}", job.id));
    let position = job.live.position();
    let mut response = (StatusCode::ACCEPTED, json(&job.told())).into_response();
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, location.expect("ids are hexadecimal. This is a bug."));
    write_headers(headers, position.unwrap_or(0), &job.live.terms);
    response
}

/// Keeps a job going, whoever asks after it or not, and then completes its request's line in the log.
pub(super) async fn follow(watcher: Watcher, log: LogEntry) {
    match watcher.finished().await {
        Ok(pictures) => {
            log.pictures(&pictures);
            log.answered(StatusCode::ACCEPTED);
        }
        Err(failure) => {
            let err = ApiError::from(failure);
            err.log();
            log.failed(err.code());
        }
    }
}
