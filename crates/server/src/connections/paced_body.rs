//! Request bodies, aborted if they arrive too slowly.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::BoxError;
use http_body::{Body, Frame, SizeHint};
use hyper::body::{Bytes, Incoming};
use tokio::time::{Instant, Sleep, sleep_until};

use super::pace::Pace;
use super::progress::Progress;

/// A body that ends with [`TooSlow`](super::pace::TooSlow) if its client keeps the server waiting. Bytes that have
/// already arrived are never too slow.
pub(super) struct PacedBody {
    body: Incoming,
    pace: Pace,
    /// `None` until the server has to wait for the first time.
    waiting: Option<Waiting>,
}

struct Waiting {
    begun: Instant,
    progress: Progress,
    patience: Pin<Box<Sleep>>,
}

impl PacedBody {
    pub(super) fn new(body: Incoming, pace: Pace) -> Self {
        PacedBody { body, pace, waiting: None }
    }
}

impl Body for PacedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let PacedBody { body, pace, waiting } = &mut *self;
        if let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) {
            if let (Some(waiting), Some(Ok(frame))) = (waiting, &frame) {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                waiting.progress.note(waiting.begun.elapsed(), bytes as u64);
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let waiting = waiting.get_or_insert_with(|| {
            let now = Instant::now();
            Waiting { begun: now, progress: Progress::begin(pace.window(0)), patience: Box::pin(sleep_until(now)) }
        });
        let (after, why) = pace.ends(&waiting.progress);
        let end = waiting.begun + after;
        if waiting.patience.deadline() != end {
            waiting.patience.as_mut().reset(end);
        }
        ready!(waiting.patience.as_mut().poll(cx));
        Poll::Ready(Some(Err(why.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
