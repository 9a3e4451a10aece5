//! Which path leads where, one file a resource.

mod health;
mod images;
mod metrics;
mod models;

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use tower_http::catch_panic::CatchPanicLayer;

use crate::access_log;
use crate::error::{self, ApiError};
use crate::state::AppState;

/// What machines ask every few seconds; everything else is below `/v1`.
pub(crate) const PROBES: [&str; 4] = ["/health", "/livez", "/metrics", "/readyz"];

/// What a mistyped path is compared with.
const KNOWN: [(&str, &str); 6] = [
    ("/v1/images/generations", "POST /v1/images/generations"),
    ("/v1/models", "GET /v1/models"),
    ("/health", "GET /health"),
    ("/livez", "GET /livez"),
    ("/metrics", "GET /metrics"),
    ("/readyz", "GET /readyz"),
];

/// How alike a path must be to a known one, from 0 to 1, for the answer to name that one.
const ALIKE: f64 = 0.7;

/// The whole API.
pub fn app(state: AppState) -> Router {
    let mut router = Router::new()
        .route("/health", get(health::ready))
        .route("/readyz", get(health::ready))
        .route("/livez", get(health::live))
        .route("/metrics", get(metrics::scrape));
    // Base URLs are given with and without the version, and so are trailing slashes.
    for prefix in ["/v1", ""] {
        for (path, methods) in [("/images/generations", post(images::generate)), ("/models", get(models::list))] {
            router = router.route(&format!("{prefix}{path}"), methods.clone());
            router = router.route(&format!("{prefix}{path}/"), methods);
        }
        // A model's id may hold slashes, as they are or as `%2F`.
        router = router.route(&format!("{prefix}/models/{{*id}}"), get(models::retrieve));
    }
    // Last: it reaches only the routes that are there already.
    let router = router.fallback(unknown_url).method_not_allowed_fallback(method_not_allowed);
    layered(router, &state).with_state(state)
}

/// A panic becomes an answer, and every answer gets its id, its line in the log and its count.
pub(crate) fn layered<S: Clone + Send + Sync + 'static>(router: Router<S>, state: &AppState) -> Router<S> {
    let observe = from_fn_with_state(state.clone(), access_log::observe);
    router.layer(CatchPanicLayer::custom(error::panicked)).layer(observe)
}

/// The template of a request's route, one for all spellings of a path; `other` for paths that lead
/// nowhere.
pub(crate) fn endpoint(matched: Option<&MatchedPath>) -> String {
    let Some(matched) = matched else { return "other".into() };
    let path = matched.as_str();
    let path = path.strip_prefix("/v1").unwrap_or(path).trim_end_matches('/');
    if PROBES.contains(&path) { path.into() } else { format!("/v1{path}") }
}

async fn unknown_url(request: Request) -> ApiError {
    let path = request.uri().path();
    let likeness = |known: &str| strsim::normalized_levenshtein(path.trim_end_matches('/'), known);
    let known = KNOWN.iter().map(|(known, shown)| (likeness(known), *shown));
    let best = known.max_by(|(a, _), (b, _)| a.total_cmp(b)).filter(|(likeness, _)| *likeness >= ALIKE);
    let path = path.chars().take(200).collect();
    ApiError::UnknownUrl { method: request.method().clone(), path, suggestion: best.map(|(_, shown)| shown) }
}

/// Axum itself adds the `allow` header.
async fn method_not_allowed(request: Request) -> ApiError {
    ApiError::MethodNotAllowed { method: request.method().clone(), path: request.uri().path().to_owned() }
}
