//! The body of a request as it arrives: its declared type and size, and the handling of refused uploads.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{BodyDataStream, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use futures_util::{Stream, StreamExt};
use http_body::Body;

use super::blocks::Blocks;
use super::held_memory::HeldMemory;
use crate::api::bounds::{BodyLimit, TooSlow};
use crate::api::error::ApiError;
use crate::uploads::Client;

/// Most time and bytes for which a refused upload is still read.
const LINGER: (Duration, usize) = (Duration::from_secs(5), 256 << 20);

/// Declared type of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MediaType {
    Json,
    /// `multipart/form-data` with its boundary.
    Form {
        boundary: String,
    },
}

/// Type that [`MediaType::of`] expects, as errors name it.
pub(crate) const JSON: &str = "application/json";
pub(crate) const JSON_OR_FORM: &str = "multipart/form-data with a boundary, or application/json";

impl MediaType {
    /// Returns the type in a request's headers. A missing type is refused too: a web page may send a body without one,
    /// or as plain text, to any server that its visitor's browser can reach.
    ///
    /// # Errors
    /// Any other type; the error says that it should be `expected`.
    pub(crate) fn of(headers: &HeaderMap, expected: &'static str) -> Result<Self, ApiError> {
        let content_type = text(headers, header::CONTENT_TYPE).unwrap_or("none");
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
            return Ok(MediaType::Json);
        }
        match multer::parse_boundary(content_type) {
            Ok(boundary) if expected == JSON_OR_FORM => Ok(MediaType::Form { boundary }),
            _ => Err(ApiError::ContentType { expected, given: content_type.chars().take(80).collect() }),
        }
    }
}

/// Refuses a compressed body: the server decompresses nothing, so a small body stays small.
///
/// # Errors
/// The name of the compression.
pub(crate) fn check_encoding(headers: &HeaderMap) -> Result<(), ApiError> {
    let lines = headers.get_all(header::CONTENT_ENCODING).into_iter();
    let codings = lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b',')).map(<[u8]>::trim_ascii);
    match codings.into_iter().find(|coding| !(coding.is_empty() || coding.eq_ignore_ascii_case(b"identity"))) {
        None => Ok(()),
        Some(coding) => {
            let given = String::from_utf8_lossy(coding).chars().take(80).collect();
            Err(ApiError::ContentEncoding { given })
        }
    }
}

/// A body of bounded size, as a stream of pieces. The received bytes count against the server's upload memory until the
/// upload is dropped.
pub(crate) struct Upload {
    stream: BodyDataStream,
    limit: BodyLimit,
    read: usize,
    held: HeldMemory,
    /// The client sent `Expect: 100-continue` and will not send a refused body.
    announced: bool,
    /// `Content-Length` exceeds the limit.
    too_large: bool,
}

impl Upload {
    pub(crate) fn new(request: Request, limit: BodyLimit, held: HeldMemory) -> Self {
        let (parts, body) = request.into_parts();
        let length = text(&parts.headers, header::CONTENT_LENGTH).and_then(|length| length.parse::<usize>().ok());
        Upload {
            stream: body.into_data_stream(),
            limit,
            read: 0,
            held,
            announced: parts.headers.contains_key(header::EXPECT),
            too_large: length.is_some_and(|length| length > limit.bytes),
        }
    }

    /// The client that sends it.
    pub(super) fn client(&self) -> Client {
        self.held.client()
    }

    /// Reads the whole body.
    ///
    /// # Errors
    /// The body is too long, breaks off or stalls, or the upload memory is full.
    pub(crate) async fn body(&mut self) -> Result<Blocks, ApiError> {
        let mut body = Blocks::default();
        while let Some(piece) = self.next().await {
            body.extend(&piece?);
        }
        Ok(body)
    }

    /// Reserves `bytes` of upload memory beyond what the upload itself holds.
    ///
    /// # Errors
    /// The memory is full.
    pub(super) fn reserve(&self, bytes: usize) -> Result<HeldMemory, ApiError> {
        Ok(self.held.beside(bytes)?)
    }

    /// The memory of the received bytes.
    pub(super) fn into_held(self) -> HeldMemory {
        self.held
    }

    /// Drains the rest as [`linger`] does. The received bytes are freed.
    pub(crate) fn linger(self) {
        let Upload { stream, announced, .. } = self;
        read_over(stream, announced);
    }

    fn too_large(&self) -> ApiError {
        ApiError::BodyTooLarge { limit: self.limit }
    }

    /// Counts a received piece.
    pub(super) fn account(&mut self, piece: &Bytes) -> Result<(), ApiError> {
        self.read += piece.len();
        if self.read > self.limit.bytes {
            return Err(self.too_large());
        }
        Ok(self.held.take(piece.len())?)
    }
}

/// Drains the body of a refused request for a while. Closing at once would reset the connection while the client is
/// still sending. openai-node then reports a broken pipe, which it retries, instead of the answer.
pub(crate) fn linger(request: Request) {
    let announced = request.headers().contains_key(header::EXPECT);
    if !request.body().is_end_stream() {
        read_over(request.into_body().into_data_stream(), announced);
    }
}

fn read_over(mut stream: BodyDataStream, announced: bool) {
    if announced {
        return;
    }
    let (time, most) = LINGER;
    tokio::spawn(tokio::time::timeout(time, async move {
        let mut read = 0;
        while let Some(Ok(piece)) = stream.next().await {
            read += piece.len();
            if read > most {
                break;
            }
        }
    }));
}

impl Stream for Upload {
    type Item = Result<Bytes, ApiError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.too_large {
            return Poll::Ready(Some(Err(self.too_large())));
        }
        let Some(piece) = std::task::ready!(self.stream.poll_next_unpin(cx)) else { return Poll::Ready(None) };
        let piece = piece.map_err(unreadable);
        Poll::Ready(Some(piece.and_then(|piece| self.account(&piece).map(|()| piece))))
    }
}

/// The error for a body that broke off or stalled.
fn unreadable(err: axum::Error) -> ApiError {
    let mut cause: Option<&dyn std::error::Error> = Some(&err);
    while let Some(err) = cause {
        if let Some(too_slow) = err.downcast_ref::<TooSlow>() {
            return ApiError::StalledUpload(*too_slow);
        }
        cause = err.source();
    }
    ApiError::UnreadableBody(err.to_string())
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
