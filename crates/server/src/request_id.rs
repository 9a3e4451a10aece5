//! Request ids: the client's if it is valid, or a generated one.

use axum::http::{HeaderMap, HeaderName, HeaderValue};

/// Header with the id, in both directions.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Most bytes of a client's id, which is written to the log unchanged.
const MAX_LEN: usize = 128;

/// Returns the id of a request with these headers: printable ASCII.
pub(crate) fn request_id(headers: &HeaderMap) -> HeaderValue {
    let is_decent =
        |id: &&HeaderValue| (1..=MAX_LEN).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic);
    headers.get(X_REQUEST_ID).filter(is_decent).cloned().unwrap_or_else(random)
}

fn random() -> HeaderValue {
    let id = format!("req_{:032x}", rand::random::<u128>());
    HeaderValue::from_str(&id).expect("hexadecimal digits are printable. This is a bug.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_for(inbound: &[u8]) -> String {
        let headers = HeaderMap::from_iter([(X_REQUEST_ID, HeaderValue::from_bytes(inbound).unwrap())]);
        request_id(&headers).to_str().unwrap().to_owned()
    }

    #[test]
    fn a_decent_id_is_kept_and_any_other_replaced() {
        assert_eq!(id_for(b"trace-1:a/b"), "trace-1:a/b");
        for bad in [&b""[..], b"two words", b"\xc3\xa9", &[b'x'; 129]] {
            let id = id_for(bad);
            assert!(id.starts_with("req_") && id.len() == 36, "{id}");
        }
        assert_ne!(id_for(b""), id_for(b""));
    }
}
