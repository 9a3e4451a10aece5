//! The body of a request as it arrives: its announced type and size, and what becomes of an upload
//! that is refused.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{BodyDataStream, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use futures_util::{Stream, StreamExt};
use http_body::Body;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{self, ApiError};

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

/// The bytes that all uploads of a server may hold together; a cheap clone.
#[derive(Clone, Debug)]
pub(crate) struct UploadMemory(Arc<Semaphore>);

impl UploadMemory {
    pub(crate) fn new(bytes: usize) -> Self {
        UploadMemory(Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS))))
    }

    /// Bytes that are free.
    #[cfg(test)]
    pub(crate) fn left(&self) -> usize {
        self.0.available_permits()
    }

    /// None of its bytes, for an upload to add to.
    fn none(&self) -> OwnedSemaphorePermit {
        self.0.clone().try_acquire_many_owned(0).expect("nobody closes the semaphore. This is a bug.")
    }
}

/// A body of at most so many bytes, in pieces. What has come counts against the server's upload memory until
/// the upload is dropped.
pub(crate) struct Upload {
    stream: BodyDataStream,
    limit: usize,
    read: usize,
    held: OwnedSemaphorePermit,
    /// The client asked first (`Expect: 100-continue`) and will not send what is refused.
    announced: bool,
    /// `Content-Length` is over the limit.
    too_large: bool,
}

impl Upload {
    pub(crate) fn new(request: Request, limit: usize, memory: &UploadMemory) -> Self {
        let (parts, body) = request.into_parts();
        let length = text(&parts.headers, header::CONTENT_LENGTH).and_then(|length| length.parse::<usize>().ok());
        Upload {
            stream: body.into_data_stream(),
            limit,
            read: 0,
            held: memory.none(),
            announced: parts.headers.contains_key(header::EXPECT),
            too_large: length.is_some_and(|length| length > limit),
        }
    }

    /// The whole body.
    ///
    /// # Errors
    /// It is too long, breaks off, stops coming, or the uploads hold as much as they may.
    pub(crate) async fn bytes(&mut self) -> Result<Vec<u8>, ApiError> {
        let mut bytes = Vec::new();
        while let Some(piece) = self.next().await {
            bytes.extend_from_slice(&piece?);
        }
        Ok(bytes)
    }

    /// As [`linger`], of what is left. What was read is let go.
    pub(crate) fn linger(self) {
        let Upload { stream, announced, .. } = self;
        read_over(stream, announced);
    }

    /// Counts a piece that has come.
    pub(super) fn account(&mut self, piece: &Bytes) -> Result<(), ApiError> {
        self.read += piece.len();
        if self.read > self.limit {
            return Err(ApiError::BodyTooLarge { limit: self.limit });
        }
        let bytes = u32::try_from(piece.len()).map_err(|_| ApiError::UploadsFull)?;
        let more = self.held.semaphore().clone().try_acquire_many_owned(bytes);
        self.held.merge(more.map_err(|_| ApiError::UploadsFull)?);
        Ok(())
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
            return Poll::Ready(Some(Err(ApiError::BodyTooLarge { limit: self.limit })));
        }
        let Some(piece) = std::task::ready!(self.stream.poll_next_unpin(cx)) else { return Poll::Ready(None) };
        let piece = piece.map_err(error::unreadable);
        Poll::Ready(Some(piece.and_then(|piece| self.account(&piece).map(|()| piece))))
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
