//! The body of a request as it arrives: its announced type and size, and what becomes of an upload
//! that is refused.

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

/// How long, and for how many bytes, a refused upload is still read.
const LINGER: (Duration, usize) = (Duration::from_secs(5), 256 << 20);

/// What a body says that it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MediaType {
    Json,
    /// `multipart/form-data`, with what parts it.
    Form {
        boundary: String,
    },
}

/// What [`MediaType::of`] refuses, in the words of the answer.
pub(crate) const JSON: &str = "application/json";
pub(crate) const JSON_OR_FORM: &str = "multipart/form-data with a boundary, or application/json";

impl MediaType {
    /// Of a request with these headers. A missing type is refused too: a web page may send a body
    /// without one, or as plain text, to any server that its visitor's browser can reach.
    ///
    /// # Errors
    /// Another type, which is told that it should be `expected`.
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

/// Refuses a body that is compressed: nothing is unpacked here, so that a small one stays small.
///
/// # Errors
/// What it is compressed by.
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

/// A body of at most so many bytes, in pieces. What has come counts against the server's upload memory until
/// the upload is dropped.
pub(crate) struct Upload {
    stream: BodyDataStream,
    limit: BodyLimit,
    read: usize,
    held: HeldMemory,
    /// The client asked first (`Expect: 100-continue`) and will not send what is refused.
    announced: bool,
    /// `Content-Length` is over the limit.
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

    /// Who sends it.
    pub(super) fn client(&self) -> Client {
        self.held.client()
    }

    /// The whole body.
    ///
    /// # Errors
    /// It is too long, breaks off, stops coming, or the uploads hold as much as they may.
    pub(crate) async fn body(&mut self) -> Result<Blocks, ApiError> {
        let mut body = Blocks::default();
        while let Some(piece) = self.next().await {
            body.extend(&piece?);
        }
        Ok(body)
    }

    /// So many bytes more of the memory of uploads, beside what the upload itself holds.
    ///
    /// # Errors
    /// There is no room for them.
    pub(super) fn reserve(&self, bytes: usize) -> Result<HeldMemory, ApiError> {
        Ok(self.held.beside(bytes)?)
    }

    /// The memory of what was read.
    pub(super) fn into_held(self) -> HeldMemory {
        self.held
    }

    /// As [`linger`], of what is left. What was read is let go.
    pub(crate) fn linger(self) {
        let Upload { stream, announced, .. } = self;
        read_over(stream, announced);
    }

    fn too_large(&self) -> ApiError {
        ApiError::BodyTooLarge { limit: self.limit }
    }

    /// Counts a piece that has come.
    pub(super) fn account(&mut self, piece: &Bytes) -> Result<(), ApiError> {
        self.read += piece.len();
        if self.read > self.limit.bytes {
            return Err(self.too_large());
        }
        Ok(self.held.take(piece.len())?)
    }
}

/// Goes on reading the body of a request that is refused, for a while. Closing at once would reset the
/// connection under a client that is still sending: openai-node then reports a broken pipe, which it retries,
/// instead of the answer.
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

/// A body that broke off, or that stopped coming.
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
