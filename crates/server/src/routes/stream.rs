//! Answers as live server-sent events.

use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};

use crate::access_log::LogEntry;
use crate::api::answer::body::write_headers;
use crate::api::answer::events;
use crate::api::answer::picture::FinishedPicture;
use crate::api::answer::terms::AnswerTerms;
use crate::api::error::ApiError;
use crate::live::{RunUpdate, Watcher};

/// Longest silence of a stream; proxies wait longer.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// The events of the watched run. When the client leaves, the watcher is dropped, which cancels a run without other
/// watchers. The events are recorded in the client's log line.
pub(crate) fn stream(watcher: Watcher, log: LogEntry) -> Response {
    let (position, terms) = (watcher.live.position(), watcher.live.terms.clone());
    let teller = Teller { watcher, log, pictures: Vec::new() };
    let events = stream::unfold(teller, |mut teller| async move { Some((teller.next().await?, teller)) });
    // Sends headers and a first byte while the client waits in the queue.
    let opening = stream::once(ready(Event::default().comment("taken")));
    let events = opening.chain(events).map(Ok::<_, Infallible>);
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE).text("keep-alive");
    let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Otherwise nginx buffers events until its buffer is full.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    write_headers(headers, position.unwrap_or(0), &terms);
    response
}

struct Teller {
    watcher: Watcher,
    log: LogEntry,
    /// The finished ones.
    pictures: Vec<Arc<FinishedPicture>>,
}

impl Teller {
    async fn next(&mut self) -> Option<Event> {
        let terms = self.watcher.live.terms.clone();
        match self.watcher.next().await? {
            Ok(RunUpdate::Step(step)) => Some(events::progress(&terms, &step)),
            Ok(RunUpdate::Restarted { image_index, created_at }) => {
                Some(events::restarted(&terms, image_index, created_at))
            }
            Ok(RunUpdate::Partial(partial)) => {
                self.log.first_partial();
                self.written(terms, move |terms| events::partial_image(terms, &partial)).await
            }
            Ok(RunUpdate::Completed(picture)) => {
                self.pictures.push(picture.clone());
                self.log.pictures(&self.pictures);
                self.written(terms, move |terms| events::completed(terms, &picture)).await
            }
            Err(err) => Some(self.failed(err.into())),
        }
    }

    /// Serializes an event with a picture on a blocking thread.
    async fn written(
        &mut self,
        terms: Arc<AnswerTerms>,
        write: impl FnOnce(&AnswerTerms) -> Event + Send + 'static,
    ) -> Option<Event> {
        let written = tokio::task::spawn_blocking(move || write(&terms)).await;
        Some(written.unwrap_or_else(|err| {
            self.watcher.close();
            self.failed(ApiError::Internal(format!("writing an event: {err}")))
        }))
    }

    fn failed(&mut self, err: ApiError) -> Event {
        err.log();
        self.log.failed(err.code());
        events::error(&err)
    }
}
