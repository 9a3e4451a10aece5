//! The paths of the API, for the log and for suggestions after a typo.

use axum::extract::MatchedPath;

/// Probes, which machines send every few seconds.
pub(crate) const PROBES: [&str; 5] = ["/health", "/livez", "/metrics", "/ping", "/readyz"];

/// Paths that a mistyped path is compared with.
pub(crate) const KNOWN: [(&str, &str); 12] = [
    ("/v1/images/generations", "POST /v1/images/generations"),
    ("/v1/images/edits", "POST /v1/images/edits"),
    ("/v1/models", "GET /v1/models"),
    ("/docs", "GET /docs"),
    ("/health", "GET /health"),
    ("/info", "GET /info"),
    ("/livez", "GET /livez"),
    ("/metrics", "GET /metrics"),
    ("/openapi.json", "GET /openapi.json"),
    ("/ping", "GET /ping"),
    ("/readyz", "GET /readyz"),
    ("/version", "GET /version"),
];

/// Returns the template of a request's route, one for all spellings of a path; `other` for unknown paths.
pub(crate) fn endpoint(matched: Option<&MatchedPath>) -> String {
    let Some(matched) = matched else { return "other".into() };
    let path = matched.as_str();
    let path = path.strip_prefix("/v1").unwrap_or(path).trim_end_matches('/');
    let is_versioned = ["/images", "/models"].iter().any(|resource| path.starts_with(resource));
    match path {
        "" => "/".into(),
        _ if is_versioned => format!("/v1{path}"),
        _ => path.into(),
    }
}
