//! Asking after jobs, following them, and giving them up.

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::access::Caller;
use crate::access_log::LogEntry;
use crate::answer::body::{json, write_headers};
use crate::answer::stream::stream;
use crate::error::ApiError;
use crate::jobs::Job;
use crate::live::Watcher;
use crate::state::AppState;

/// `GET /v1/images/jobs/{id}`.
pub(crate) async fn status(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let job = state.jobs.get(&id, caller.owner, state.clock.now())?;
    Ok(json(&job.told()))
}

/// `DELETE /v1/images/jobs/{id}`: gives up a job that is going on, which is then kept as `cancelled`, and
/// forgets one that has ended.
pub(crate) async fn cancel(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let job = state.jobs.get(&id, caller.owner, state.clock.now())?;
    if job.live.has_ended() {
        state.jobs.remove(&id, state.clock.now());
    } else {
        let watcher = job.live.watch();
        job.live.cancel();
        // It is as it is told only when the driver is gone; it may have come to its end before.
        let _ = watcher.finished().await;
    }
    Ok(json(&job.told()))
}

/// `GET /v1/images/jobs/{id}/events`: what a stream of the request would tell, from the beginning. Whoever
/// leaves, leaves the job alone.
pub(crate) async fn events(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    Extension(log): Extension<LogEntry>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let job = state.jobs.get(&id, caller.owner, state.clock.now())?;
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
