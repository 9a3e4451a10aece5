//! The router, with one file a resource.

mod assets;
mod docs;
mod files;
mod health;
mod images;
mod info;
mod jobs;
mod metrics;
mod models;
mod playground;
mod stream;

use axum::Router;
use axum::extract::Request;
use axum::http::{Method, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use tower_http::catch_panic::CatchPanicLayer;

use crate::api::error::{self, ApiError};
use crate::api::paths::KNOWN;
use crate::state::AppState;
use crate::{access, access_log, guard, uploads};

/// Least similarity to a known path, from 0 to 1, for a 404 to suggest that path.
const ALIKE: f64 = 0.7;

/// The whole API.
pub fn app(state: AppState) -> Router {
    let keyed = keyed().route_layer(from_fn_with_state(state.clone(), guard::guard));
    let router = open().merge(playground::routes()).merge(docs::routes()).merge(keyed);
    // Last, because a fallback applies only to the routes that exist already.
    let router = router.fallback(unknown_url).method_not_allowed_fallback(method_not_allowed);
    layered(router, &state).with_state(state)
}

/// Routes that need no key.
fn open() -> Router<AppState> {
    let routes = [
        ("/health", get(health::ready)),
        ("/readyz", get(health::ready)),
        ("/livez", get(health::live)),
        ("/ping", get(health::live)),
        ("/metrics", get(metrics::scrape)),
        ("/info", get(info::info)),
        ("/version", get(info::version)),
        // The signed URL is the credential.
        ("/v1/images/files/{id}", get(files::fetch)),
        ("/images/files/{id}", get(files::fetch)),
    ];
    routes.into_iter().fold(Router::new(), |router, (path, methods)| {
        router.route(path, methods.clone()).route(&format!("{path}/"), methods)
    })
}

/// Routes that need a key on a server with keys.
fn keyed() -> Router<AppState> {
    let mut router = Router::new();
    // Clients configure base URLs with or without the version and a trailing slash.
    for prefix in ["/v1", ""] {
        for (path, methods) in [
            ("/images/generations", post(images::generate)),
            ("/images/edits", post(images::edit)),
            ("/images/variations", post(images::vary)),
            ("/images/jobs/{id}", get(jobs::status).delete(jobs::cancel)),
            ("/images/jobs/{id}/events", get(jobs::events)),
            ("/models", get(models::list)),
        ] {
            router = router.route(&format!("{prefix}{path}"), methods.clone());
            router = router.route(&format!("{prefix}{path}/"), methods);
        }
        // A model's id may contain slashes, plain or as `%2F`.
        router = router.route(&format!("{prefix}/models/{{*id}}"), get(models::retrieve));
    }
    router
}

/// Adds the layers for panics, CORS, request ids, the access log and the request metrics.
pub(crate) fn layered<S: Clone + Send + Sync + 'static>(router: Router<S>, state: &AppState) -> Router<S> {
    let observe = from_fn_with_state(state.clone(), access_log::observe);
    let same_site = from_fn_with_state(state.clone(), guard::same_site);
    let router = router.layer(CatchPanicLayer::custom(error::panicked)).layer(same_site);
    match access::cors_layer(&state.config.cors_allow_origins) {
        Some(cors) => router.layer(cors).layer(observe),
        None => router.layer(observe),
    }
}

async fn unknown_url(request: Request) -> ApiError {
    let path = request.uri().path();
    let likeness = |known: &str| strsim::normalized_levenshtein(path.trim_end_matches('/'), known);
    let known = KNOWN.iter().map(|(known, shown)| (likeness(known), *shown));
    let best = known.max_by(|(a, _), (b, _)| a.total_cmp(b)).filter(|(likeness, _)| *likeness >= ALIKE);
    let (method, path) = (request.method().clone(), path.chars().take(200).collect());
    uploads::linger(request);
    ApiError::UnknownUrl { method, path, suggestion: best.map(|(_, shown)| shown) }
}

/// Axum adds the `allow` header, which is a complete answer to `OPTIONS`.
async fn method_not_allowed(request: Request) -> Result<StatusCode, ApiError> {
    if request.method() == Method::OPTIONS {
        return Ok(StatusCode::NO_CONTENT);
    }
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    uploads::linger(request);
    Err(ApiError::MethodNotAllowed { method, path })
}
