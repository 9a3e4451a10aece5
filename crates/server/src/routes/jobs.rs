//! Polling, following and cancelling async jobs.

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
    // Checked before the state is read: a job that ends in between is polled again.
    if job.live.has_ended() {
        state.jobs.note_told(&id, now);
    }
    Ok(json(&job.told()))
}

/// `DELETE /v1/images/jobs/{id}`: cancels a running job, or forgets one that has ended. A cancelled job is kept as
/// `cancelled`, without its pictures. The answer to forgetting a job is the last to show it.
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

/// Cancels a job. Returns whether it was still running.
async fn give_up(job: &Job) -> bool {
    let watcher = job.live.watch();
    job.live.cancel();
    // The state is final only when the driver is gone.
    matches!(watcher.finished().await, Err(Failure::Cancelled))
}

/// `GET /v1/images/jobs/{id}/events`: the event stream of the job's request, from the beginning. A client that leaves
/// does not cancel the job.
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

/// The answer to the request that started the job.
pub(super) fn accepted(job: &Job) -> Response {
    let location = HeaderValue::from_str(&format!("/v1/images/jobs/{}", job.id));
    let position = job.live.position();
    let mut response = (StatusCode::ACCEPTED, json(&job.told())).into_response();
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, location.expect("ids are hexadecimal. This is a bug."));
    write_headers(headers, position.unwrap_or(0), &job.live.terms);
    response
}

/// Keeps a job going without clients, and completes its request's log line at the end.
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
