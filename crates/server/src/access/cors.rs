//! Cross-origin access (CORS): the web pages that may call the server from a browser.

use std::str::FromStr;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Method, Uri};
use tower_http::cors::{AllowHeaders, AllowOrigin, Any, CorsLayer};

/// Headers that a page may read of an answer, beyond those every page may.
const EXPOSED: [&str; 16] = [
    "content-disposition",
    "idempotent-replayed",
    "location",
    "openai-processing-ms",
    "retry-after",
    "retry-after-ms",
    "www-authenticate",
    "x-generated-size",
    "x-ignored-params",
    "x-queue-ms",
    "x-queue-position",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-request-id",
    "x-should-retry",
];

/// How long a browser may cache a preflight answer.
const MAX_AGE: Duration = Duration::from_secs(3600);

/// An origin whose pages may call the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedOrigin {
    /// `*`.
    Any,
    /// One origin, as browsers send it: `https://app.example.com`.
    Exactly(HeaderValue),
}

impl FromStr for AllowedOrigin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(AllowedOrigin::Any);
        }
        let refused = || "must be `*` or an origin as browsers send it, e.g. https://app.example.com".to_owned();
        let uri: Uri = text.parse().map_err(|_| refused())?;
        let origin = uri.scheme().zip(uri.authority()).map(|(scheme, authority)| format!("{scheme}://{authority}"));
        // An origin with a path, a trailing slash, a capital letter or a pattern would never match.
        if origin.is_none_or(|origin| origin != text || origin.to_ascii_lowercase() != text) || text.contains('*') {
            return Err(refused());
        }
        HeaderValue::from_str(text).map(AllowedOrigin::Exactly).map_err(|_| refused())
    }
}

/// The layer that answers preflight requests for the allowed origins; `None` without any. It never allows credentials
/// that the browser adds by itself, so `*` exposes nobody's rights: a page sends the key that it has.
pub(crate) fn cors_layer(origins: &[AllowedOrigin]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let exactly = origins.iter().filter_map(|origin| match origin {
        AllowedOrigin::Any => None,
        AllowedOrigin::Exactly(origin) => Some(origin.clone()),
    });
    let origin =
        if origins.contains(&AllowedOrigin::Any) { AllowOrigin::from(Any) } else { AllowOrigin::list(exactly) };
    let layer = CorsLayer::new()
        .allow_origin(origin)
        .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::DELETE])
        // The SDKs send a dozen `x-stainless-*` headers and add more over time.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(EXPOSED.map(HeaderName::from_static))
        .max_age(MAX_AGE);
    Some(layer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_what_a_browser_sends() {
        assert_eq!("*".parse(), Ok(AllowedOrigin::Any));
        for origin in ["https://app.example.com", "http://localhost:3000", "http://127.0.0.1"] {
            assert_eq!(origin.parse(), Ok(AllowedOrigin::Exactly(HeaderValue::from_static(origin))));
        }
        for bad in
            ["", "app.example.com", "https://app.example.com/", "https://App.example.com", "https://*.example.com"]
        {
            assert!(bad.parse::<AllowedOrigin>().is_err(), "{bad}");
        }
    }
}
