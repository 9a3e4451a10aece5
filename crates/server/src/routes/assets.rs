//! Serving the files of the embedded pages.

use std::hash::{DefaultHasher, Hash, Hasher};

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// A file of a page.
pub(super) struct Asset {
    pub(super) name: &'static str,
    pub(super) content_type: &'static str,
    pub(super) body: &'static [u8],
}

pub(super) const fn text(name: &'static str, content_type: &'static str, body: &'static str) -> Asset {
    Asset { name, content_type, body: body.as_bytes() }
}

pub(super) const HTML: &str = "text/html; charset=utf-8";
pub(super) const CSS: &str = "text/css; charset=utf-8";
pub(super) const JS: &str = "text/javascript; charset=utf-8";
pub(super) const SVG: &str = "image/svg+xml";

/// No external or inline resources; pictures are `data:` and `blob:` URLs.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Answers with the file or 304. A browser caches the file but revalidates it, because an old page must not meet
/// another version of the server.
pub(super) fn answer(asset: &Asset, headers: &HeaderMap) -> Response {
    let mut hasher = DefaultHasher::new();
    asset.body.hash(&mut hasher);
    let etag = format!("\"{:016x}\"", hasher.finish());
    let about = [
        (header::ETAG, etag.as_str()),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    // The header is a list, whose tags a compressing proxy may have made weak.
    let is_known = known.is_some_and(|list| list.split(',').any(|known| known.trim().trim_start_matches("W/") == etag));
    if is_known {
        return (StatusCode::NOT_MODIFIED, about).into_response();
    }
    (about, [(header::CONTENT_TYPE, asset.content_type)], asset.body).into_response()
}
