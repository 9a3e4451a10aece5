//! Serving pictures by URL.

use axum::extract::{Path, Query, State};
use axum::http::{HeaderName, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use crate::api::error::ApiError;
use crate::state::AppState;

/// The signed part of a URL. A missing or malformed value fails the signature check.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Signed {
    #[serde(default)]
    expires: String,
    #[serde(default)]
    signature: String,
}

/// `GET /v1/images/files/{id}`: the file, for a client with its whole URL.
pub(crate) async fn fetch(
    State(state): State<AppState>,
    Path(id): Path<String>,
    signed: Result<Query<Signed>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(Signed { expires, signature }) = signed.map_err(|_| ApiError::InvalidSignature)?;
    let expires = expires.parse().map_err(|_| ApiError::InvalidSignature)?;
    let now = state.clock.now();
    let file = state.files.get(&id, expires, &signature, now)?;
    let cache_control = format!("private, max-age={}, immutable", file.expires.saturating_sub(now));
    let headers = [
        (header::CONTENT_TYPE, file.format.media_type()),
        (header::CACHE_CONTROL, &cache_control),
        (HeaderName::from_static("x-content-type-options"), "nosniff"),
    ];
    Ok((headers, file.bytes).into_response())
}
