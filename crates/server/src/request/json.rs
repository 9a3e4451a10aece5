//! Reading a JSON body: its type, its size, its syntax.

use std::time::Duration;

use axum::body::BodyDataStream;
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use futures_util::StreamExt;
use serde_json::Value;

use super::fields::Fields;
use crate::error::ApiError;

/// How long, and for how many bytes, a refused upload is still read.
const LINGER: (Duration, usize) = (Duration::from_secs(5), 64 << 20);

/// The fields of a JSON object of at most `limit` bytes.
pub(crate) async fn json_object(request: Request, limit: usize) -> Result<Fields, ApiError> {
    let (parts, body) = request.into_parts();
    let mut upload = Upload { stream: body.into_data_stream(), announced: parts.headers.contains_key(header::EXPECT) };
    if let Err(err) = check_headers(&parts.headers, limit) {
        upload.linger();
        return Err(err);
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = upload.stream.next().await {
        bytes.extend_from_slice(&chunk.map_err(ApiError::UnreadableBody)?);
        if bytes.len() > limit {
            upload.linger();
            return Err(ApiError::BodyTooLarge { limit });
        }
    }
    match serde_json::from_slice(&bytes).map_err(ApiError::InvalidJson)? {
        Value::Object(object) => Ok(Fields::new(object)),
        Value::Array(_) => Err(ApiError::NotAnObject("an array")),
        Value::String(_) => Err(ApiError::NotAnObject("a string")),
        Value::Null | Value::Bool(_) | Value::Number(_) => Err(ApiError::NotAnObject("a single value")),
    }
}

/// Refuses by the headers alone. A missing type is refused too: a web page may send a body
/// without one, or as plain text, to any server that its visitor's browser can reach.
fn check_headers(headers: &HeaderMap, limit: usize) -> Result<(), ApiError> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let content_type = text(header::CONTENT_TYPE).unwrap_or("none");
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence != "application/json" && !(essence.starts_with("application/") && essence.ends_with("+json")) {
        return Err(ApiError::ContentType(content_type.chars().take(80).collect()));
    }
    let length = text(header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
    if length.is_some_and(|length: usize| length > limit) {
        return Err(ApiError::BodyTooLarge { limit });
    }
    Ok(())
}

struct Upload {
    stream: BodyDataStream,
    /// The client asked first (`Expect: 100-continue`) and will not send what is refused.
    announced: bool,
}

impl Upload {
    /// Goes on reading for a while. Closing at once would reset the connection under a client
    /// that is still sending: openai-node then reports a broken pipe, which it retries, instead
    /// of the answer.
    fn linger(mut self) {
        if self.announced {
            return;
        }
        let (time, most) = LINGER;
        tokio::spawn(tokio::time::timeout(time, async move {
            let mut read = 0;
            while let Some(Ok(chunk)) = self.stream.next().await {
                read += chunk.len();
                if read > most {
                    break;
                }
            }
        }));
    }
}
