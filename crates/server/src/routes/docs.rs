//! The API description: `/openapi.json` for programs, and a page for people.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};

use super::assets::{Asset, CSS, HTML, JS, answer, text};
use crate::api::error::ApiError;
use crate::api::openapi;
use crate::state::AppState;

static PAGE: Asset = text("docs.html", HTML, include_str!("../../docs/docs.html"));
/// Files of the page, below `/docs/`.
static ASSETS: [Asset; 2] = [
    text("docs.css", CSS, include_str!("../../docs/docs.css")),
    text("docs.js", JS, include_str!("../../docs/docs.js")),
];

/// Routes of both. They need no key, because they say nothing about requests.
pub(crate) fn routes() -> Router<AppState> {
    Router::new().route("/openapi.json", get(document)).route("/docs", get(page)).route("/docs/{file}", get(asset))
}

async fn document(State(state): State<AppState>) -> Response {
    let mut config = state.config.api.clone();
    if let Ok(card) = state.card() {
        config.limits = config.limits.of(&card);
    }
    Json(openapi::document(&config, state.config.uploads.image_urls.is_some())).into_response()
}

async fn page(headers: HeaderMap) -> Response {
    answer(&PAGE, &headers)
}

async fn asset(Path(file): Path<String>, method: Method, uri: Uri, headers: HeaderMap) -> Result<Response, ApiError> {
    let asset = ASSETS.iter().find(|asset| asset.name == file);
    let path = uri.path().chars().take(200).collect();
    let asset = asset.ok_or(ApiError::UnknownUrl { method, path, suggestion: Some("GET /docs") })?;
    Ok(answer(asset, &headers))
}
