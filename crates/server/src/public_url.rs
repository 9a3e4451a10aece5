//! The public base URL for URLs in answers.

use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri, header};

/// Returns `scheme://host` without a trailing slash: the configured one, else the one that a proxy forwarded, else the
/// one that the request was sent to.
///
/// A client can forge the headers, but only its own answer contains the result.
pub(crate) fn public_url(configured: Option<&str>, headers: &HeaderMap, uri: &Uri) -> String {
    if let Some(configured) = configured {
        return configured.trim_end_matches('/').to_owned();
    }
    let Forwarded { proto, host } = forwarded(headers);
    let asked = || text(headers, header::HOST.as_str()).and_then(authority);
    // HTTP/2 has the host in the URI.
    let host = host.or_else(asked).or_else(|| uri.authority().map(Authority::to_string));
    format!("{}://{}", proto.unwrap_or("http"), host.as_deref().unwrap_or("localhost"))
}

#[derive(Default)]
struct Forwarded {
    proto: Option<&'static str>,
    host: Option<String>,
}

/// The host and scheme that the first proxy was asked for. RFC 7239's header takes precedence over the older ones.
fn forwarded(headers: &HeaderMap) -> Forwarded {
    let standard = text(headers, header::FORWARDED.as_str()).and_then(|list| rfc7239::parse(list).next()?.ok());
    let standard = standard.unwrap_or_default();
    let older = |name| Some(text(headers, name)?.split(',').next()?.trim());
    Forwarded {
        proto: standard.protocol.or_else(|| older("x-forwarded-proto")).and_then(scheme),
        host: standard.host.or_else(|| older("x-forwarded-host")).and_then(authority),
    }
}

fn scheme(text: &str) -> Option<&'static str> {
    ["http", "https"].into_iter().find(|scheme| scheme.eq_ignore_ascii_case(text.trim_matches('"')))
}

fn authority(text: &str) -> Option<String> {
    let authority: Authority = text.trim_matches('"').parse().ok()?;
    // Never includes a user name and password.
    (!authority.as_str().contains('@')).then(|| authority.to_string())
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn url(headers: &[(&'static str, &'static str)]) -> String {
        let header = |&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
        public_url(None, &headers.iter().map(header).collect(), &Uri::from_static("/v1/images/generations"))
    }

    #[test]
    fn it_is_what_the_client_asked_for() {
        let host = ("host", "10.0.0.7:8091");
        assert_eq!(url(&[host]), "http://10.0.0.7:8091");
        assert_eq!(url(&[]), "http://localhost");
        assert_eq!(url(&[host, ("x-forwarded-proto", "https")]), "https://10.0.0.7:8091");
        let older = [host, ("x-forwarded-proto", "https"), ("x-forwarded-host", "images.example.com, inner")];
        assert_eq!(url(&older), "https://images.example.com");
        let standard = ("forwarded", "for=192.0.2.60;proto=https;host=\"img.example:8443\", for=10.0.0.1;host=inner");
        assert_eq!(url(&[host, standard]), "https://img.example:8443");
        assert_eq!(url(&[older[0], older[1], older[2], standard]), "https://img.example:8443");
    }

    #[test]
    fn what_is_no_host_or_scheme_is_passed_over() {
        for bad in ["javascript", "https://", ""] {
            assert_eq!(url(&[("host", "a"), ("x-forwarded-proto", bad)]), "http://a", "{bad}");
        }
        for bad in ["evil/path", "user@evil", "two words", ""] {
            assert_eq!(url(&[("host", "a"), ("x-forwarded-host", bad)]), "http://a", "{bad}");
        }
    }

    #[test]
    fn http_2_and_the_operator_have_it_elsewhere() {
        let uri = Uri::from_static("http://h2.example:81/v1/images/generations");
        assert_eq!(public_url(None, &HeaderMap::new(), &uri), "http://h2.example:81");
        let configured = Some("https://images.example.com/latentd/");
        assert_eq!(public_url(configured, &HeaderMap::new(), &uri), "https://images.example.com/latentd");
    }
}
