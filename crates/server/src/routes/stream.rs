//! The answer as server-sent events, as they happen.

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
use crate::api::answer::picture::Picture;
use crate::api::answer::terms::Terms;
use crate::api::error::ApiError;
use crate::live::{Entry, Watcher};

/// How long a stream may be silent: less than proxies wait.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// The events of what `watcher` watches, which is cancelled when the client leaves, if nobody else
/// watches it. The client's line in the log learns of them.
pub(crate) fn stream(watcher: Watcher, log: LogEntry) -> Response {
    let (position, terms) = (watcher.live.position(), watcher.live.terms.clone());
    let teller = Teller { watcher, log, pictures: Vec::new() };
    let events = stream::unfold(teller, |mut teller| async move { Some((teller.next().await?, teller)) });
    // So that headers and a first byte reach the client while it waits in line.
    let opening = stream::once(ready(Event::default().comment("taken")));
    let events = opening.chain(events).map(Ok::<_, Infallible>);
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE).text("keep-alive");
    let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Nginx would collect events until its buffer is full.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    write_headers(headers, position.unwrap_or(0), &terms);
    response
}

struct Teller {
    watcher: Watcher,
    log: LogEntry,
    /// Those that are finished.
    pictures: Vec<Arc<Picture>>,
}

impl Teller {
    async fn next(&mut self) -> Option<Event> {
        let terms = self.watcher.live.terms.clone();
        match self.watcher.next().await? {
            Ok(Entry::Step(step)) => Some(events::progress(&terms, &step)),
            Ok(Entry::Restarted { image_index, created_at }) => {
                Some(events::restarted(&terms, image_index, created_at))
            }
            Ok(Entry::Partial(partial)) => {
                self.log.first_partial();
                self.written(terms, move |terms| events::partial_image(terms, &partial)).await
            }
            Ok(Entry::Completed(picture)) => {
                self.pictures.push(picture.clone());
                self.log.pictures(&self.pictures);
                self.written(terms, move |terms| events::completed(terms, &picture)).await
            }
            Err(err) => Some(self.failed(err.into())),
        }
    }

    /// An event with a picture, written on a blocking thread.
    async fn written(
        &mut self,
        terms: Arc<Terms>,
        write: impl FnOnce(&Terms) -> Event + Send + 'static,
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
