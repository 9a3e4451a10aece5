//! The access log: one line a request with who, what and how long; never the prompt. Logged requests are also counted.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use http_body::{Frame, SizeHint};
use tracing::Instrument;

use crate::api::answer::body::slowest;
use crate::api::answer::openai::StageTimings;
use crate::api::answer::picture::FinishedPicture;
use crate::api::error::ErrorCode;
use crate::api::milliseconds::milliseconds;
use crate::api::paths::{PROBES, endpoint};
use crate::metrics::Answered;
use crate::request_id::{X_REQUEST_ID, request_id};
use crate::state::AppState;
use crate::trace_context::continue_trace;

/// What a request adds to its line, as far as it got.
#[derive(Clone, Debug, Default)]
pub(crate) struct GenerationLog {
    /// The name of the caller's key.
    pub(crate) key: Option<Arc<str>>,
    pub(crate) model: Option<String>,
    pub(crate) size: Option<String>,
    pub(crate) steps: Option<usize>,
    pub(crate) n: Option<usize>,
    pub(crate) priority: Option<i8>,
    /// Jobs that were queued ahead of the request's first.
    pub(crate) queue_position: Option<usize>,
    pub(crate) timings: Option<StageTimings>,
    pub(crate) encode_image_ms: Option<f64>,
    /// Time from the request's arrival to its first preview.
    first_partial: Option<Duration>,
}

/// How the answer was delivered.
#[derive(Clone, Copy, Debug)]
struct Ending {
    status: u16,
    code: Option<&'static str>,
    /// Bytes of the answer's body.
    bytes: usize,
}

/// A request's log line, shared by all parts that contribute to it; it is written when the last clone is dropped. So it
/// survives a dropped handler, and waits for a job that outlives its answer.
#[derive(Clone, Debug)]
pub(crate) struct LogEntry(Arc<Line>);

impl LogEntry {
    pub(crate) fn write(&self, write: impl FnOnce(&mut GenerationLog)) {
        write(&mut self.0.generation.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Records that the answer has its first preview.
    pub(crate) fn first_partial(&self) {
        let elapsed = self.0.begun.elapsed();
        self.write(|line| {
            line.first_partial.get_or_insert(elapsed);
        });
    }

    /// Records the finished pictures.
    pub(crate) fn pictures(&self, pictures: &[Arc<FinishedPicture>]) {
        self.write(|line| {
            line.timings = Some(slowest(pictures));
            line.queue_position = pictures.iter().map(|picture| picture.position).min();
            line.encode_image_ms = Some(milliseconds(pictures.iter().map(|picture| picture.encode).sum()));
        });
    }

    /// Records that the request failed after its answer had begun.
    pub(crate) fn failed(&self, code: &'static str) {
        self.end(|ending| ending.code = Some(code));
    }

    /// Records the status of an answer that has been sent in full.
    pub(crate) fn answered(&self, status: StatusCode) {
        self.end(|ending| ending.status = status.as_u16());
    }

    fn end(&self, write: impl FnOnce(&mut Ending)) {
        write(&mut self.0.ending.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Status of a line whose client left first (nginx's convention).
const CLIENT_LEFT: u16 = 499;
/// Most characters of a path in a line.
const MAX_PATH: usize = 200;

/// Gives the request an id and its handler a [`LogEntry`], and writes the line when the answer's last byte is handed
/// over or the client leaves. It is the outermost layer, so that every answer has its `x-request-id`.
pub(crate) async fn observe(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    let line = Arc::new(Line {
        state,
        endpoint: endpoint(request.extensions().get::<MatchedPath>()),
        id: id.to_str().unwrap_or_default().to_owned(),
        method: request.method().clone(),
        path: request.uri().path().chars().take(MAX_PATH).collect(),
        begun: Instant::now(),
        generation: Mutex::default(),
        ending: Mutex::new(Ending { status: CLIENT_LEFT, code: None, bytes: 0 }),
    });
    let entry = LogEntry(line.clone());
    request.extensions_mut().insert(entry.clone());
    let span = tracing::info_span!("request", request_id = line.id, method = %line.method, endpoint = line.endpoint);
    continue_trace(&span, request.headers());
    let mut response = next.run(request).instrument(span).await;

    if let Some(ErrorCode(code)) = response.extensions().get() {
        entry.failed(code);
    }
    let headers = response.headers_mut();
    headers.insert(X_REQUEST_ID, id);
    let elapsed = HeaderValue::from(line.begun.elapsed().as_millis() as u64);
    headers.insert(HeaderName::from_static("openai-processing-ms"), elapsed);
    let status = response.status();
    let is_head = line.method == Method::HEAD;
    response.map(|body| Body::new(Observed::new(body, entry, status, is_head)))
}

/// The body of an answer; it completes the log line at its end.
struct Observed {
    body: Body,
    entry: LogEntry,
    /// The answer's status, which the line gets once the body is sent in full.
    status: StatusCode,
}

impl Observed {
    fn new(body: Body, entry: LogEntry, status: StatusCode, is_head: bool) -> Self {
        // Hyper does not poll an empty body or the body of a `HEAD` answer.
        if body.is_end_stream() || is_head {
            entry.answered(status);
        }
        Observed { body, entry, status }
    }
}

impl HttpBody for Observed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.entry.end(|ending| ending.bytes += frame.data_ref().map_or(0, Bytes::len));
        }
        // Hyper stops polling once it has all the announced bytes.
        if matches!(polled, Poll::Ready(None)) || self.body.is_end_stream() {
            self.entry.answered(self.status);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[derive(Debug)]
struct Line {
    state: AppState,
    endpoint: String,
    id: String,
    method: Method,
    path: String,
    begun: Instant,
    generation: Mutex<GenerationLog>,
    ending: Mutex<Ending>,
}

impl Line {
    fn write(&self, generation: GenerationLog, Ending { status, code, bytes }: Ending) {
        let GenerationLog { key, model, size, steps, n, priority, queue_position, timings, encode_image_ms, .. } =
            generation;
        let first_partial_ms = generation.first_partial.map(milliseconds);
        // `tracing` fixes an event's level at its call site, hence the macro. Probes come every few seconds and are of
        // interest only when they fail.
        macro_rules! line {
            ($level:expr) => {
                tracing::event!(
                    $level,
                    request_id = self.id,
                    key = key.as_deref(),
                    method = %self.method,
                    path = self.path,
                    status,
                    code,
                    ms = milliseconds(self.begun.elapsed()),
                    bytes,
                    model,
                    size,
                    steps,
                    n,
                    priority,
                    queue_position,
                    queue_ms = timings.map(|timings| timings.queue_ms),
                    text_encoder_ms = timings.map(|timings| timings.text_encoder_ms),
                    denoise_ms = timings.map(|timings| timings.denoise_ms),
                    vae_ms = timings.map(|timings| timings.vae_ms),
                    encode_image_ms,
                    first_partial_ms,
                    "request"
                )
            };
        }
        let is_probe = PROBES.contains(&self.endpoint.as_str());
        if is_probe && status == StatusCode::OK.as_u16() {
            line!(tracing::Level::DEBUG);
        } else {
            line!(tracing::Level::INFO);
        }
    }
}

impl Drop for Line {
    /// Also runs when the client leaves and hyper drops the request's future or the answer's body.
    fn drop(&mut self) {
        let generation = std::mem::take(self.generation.get_mut().unwrap_or_else(PoisonError::into_inner));
        let ending = *self.ending.get_mut().unwrap_or_else(PoisonError::into_inner);
        let outcome = match (ending.code, ending.status) {
            (Some(code), _) => code,
            (None, CLIENT_LEFT) => "client_left",
            (None, _) => "ok",
        };
        let has_pictures = outcome == "ok" && generation.timings.is_some();
        self.state.metrics.answered(&Answered {
            endpoint: &self.endpoint,
            model: self.state.config.api.model_id(),
            outcome,
            pictures_after: has_pictures.then(|| self.begun.elapsed()),
            first_partial_after: generation.first_partial,
        });
        self.write(generation, ending);
    }
}
