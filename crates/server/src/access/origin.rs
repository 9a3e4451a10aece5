//! Protection against cross-site requests. A page can send forms to any server that its visitor can reach, without a
//! preflight. It cannot read the answer, but a picture was made.

use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, Uri, header};

use super::AllowedOrigin;

/// The relation between the page that sent a request and this server, as the browser sees it.
/// <https://www.w3.org/TR/fetch-metadata/>
const SEC_FETCH_SITE: &str = "sec-fetch-site";

/// Whether to answer a request that a page may have sent. Allowed are requests of the server's own pages, of the
/// allowed origins, and of clients other than browsers. `own` holds the server's public URLs. The order of the checks
/// is that of Go's `http.CrossOriginProtection`.
pub(crate) fn allowed_origin(method: &Method, headers: &HeaderMap, own: &[&str], allowed: &[AllowedOrigin]) -> bool {
    if method.is_safe() {
        return true;
    }
    let origin = headers.get(header::ORIGIN);
    let is_allowed = |allowed: &AllowedOrigin| match allowed {
        AllowedOrigin::Any => true,
        AllowedOrigin::Exactly(allowed) => origin == Some(allowed),
    };
    if origin.is_some() && allowed.iter().any(is_allowed) {
        return true;
    }
    // The browser knows the page's address even if proxies have changed that of the request.
    if let Some(site) = headers.get(SEC_FETCH_SITE) {
        return site == "same-origin" || site == "none";
    }
    let Some(origin) = origin else { return true };
    let authority = origin.to_str().ok().and_then(authority);
    authority.is_some_and(|origin| own.iter().any(|own| origin.as_str().eq_ignore_ascii_case(own)))
}

/// The host and port of an origin or a URL; `None` for `null`.
pub(crate) fn authority(url: &str) -> Option<Authority> {
    let uri: Uri = url.parse().ok()?;
    uri.scheme()?;
    uri.authority().cloned()
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    #[track_caller]
    fn check(method: &Method, headers: &[(&'static str, &'static str)], expected: bool) {
        let map = headers.iter().map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let allowed = ["https://app.example.com".parse().unwrap()];
        let own = ["localhost:8091", "images.example.com"];
        assert_eq!(allowed_origin(method, &map.collect(), &own, &allowed), expected, "{method} {headers:?}");
    }

    #[test]
    fn a_page_of_another_origin_changes_nothing() {
        for method in [Method::POST, Method::DELETE] {
            for (headers, expected) in [
                (&[][..], true),
                (&[("origin", "http://localhost:8091")], true),
                (&[("origin", "http://LOCALHOST:8091")], true),
                (&[("origin", "https://images.example.com")], true),
                (&[("origin", "https://app.example.com")], true),
                (&[("origin", "https://app.example.com"), ("sec-fetch-site", "cross-site")], true),
                (&[("origin", "https://elsewhere.example"), ("sec-fetch-site", "same-origin")], true),
                (&[("sec-fetch-site", "none")], true),
                (&[("origin", "http://localhost:3000")], false),
                (&[("origin", "http://localhost")], false),
                (&[("origin", "https://evil.example")], false),
                (&[("origin", "null")], false),
                (&[("origin", "")], false),
                (&[("origin", "file://")], false),
                (&[("sec-fetch-site", "cross-site")], false),
                (&[("sec-fetch-site", "same-site")], false),
                (&[("origin", "http://localhost:8091"), ("sec-fetch-site", "cross-site")], false),
            ] {
                check(&method, headers, expected);
            }
        }
        for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
            check(&method, &[("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")], true);
        }
    }

    #[test]
    fn every_origin_may_be_allowed() {
        for origin in ["null", "https://evil.example"] {
            let headers = HeaderMap::from_iter([(header::ORIGIN, HeaderValue::from_static(origin))]);
            assert!(allowed_origin(&Method::POST, &headers, &[], &[AllowedOrigin::Any]), "{origin}");
        }
    }
}
