//! One line a request: who, what, how long; never the prompt. What is logged here is counted too.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use http_body::{Frame, SizeHint};
use tracing::Instrument;

use crate::answer::openai::StageTimings;
use crate::error::ErrorCode;
use crate::metrics::Answered;
use crate::request_id::{X_REQUEST_ID, request_id};
use crate::routes::{PROBES, endpoint};
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
    /// Jobs that were in line before the request's first.
    pub(crate) queue_position: Option<usize>,
    pub(crate) timings: Option<StageTimings>,
    pub(crate) encode_image_ms: Option<f64>,
}

/// The handler's end of the line: shared, so that it survives a handler that is dropped.
#[derive(Clone, Debug, Default)]
pub(crate) struct LogEntry(Arc<Mutex<GenerationLog>>);

impl LogEntry {
    pub(crate) fn write(&self, write: impl FnOnce(&mut GenerationLog)) {
        write(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn read(&self) -> GenerationLog {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What a line says instead of a status when the client left first (nginx's word for it).
const CLIENT_LEFT: u16 = 499;
/// Most characters of a path that are written.
const MAX_PATH: usize = 200;

/// Names the request, hands the handler a [`LogEntry`], and writes the line when the answer's last
/// byte is handed over or the client leaves. Outermost, so that every answer has its `x-request-id`.
pub(crate) async fn observe(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    let mut line = Line {
        state,
        endpoint: endpoint(request.extensions().get::<MatchedPath>()),
        id: id.to_str().unwrap_or_default().to_owned(),
        method: request.method().clone(),
        path: request.uri().path().chars().take(MAX_PATH).collect(),
        begun: Instant::now(),
        entry: LogEntry::default(),
        status: CLIENT_LEFT,
        code: None,
        bytes: 0,
    };
    request.extensions_mut().insert(line.entry.clone());
    let span = tracing::info_span!("request", request_id = line.id, method = %line.method, endpoint = line.endpoint);
    continue_trace(&span, request.headers());
    let mut response = next.run(request).instrument(span).await;

    line.code = response.extensions().get().map(|ErrorCode(code)| *code);
    let headers = response.headers_mut();
    headers.insert(X_REQUEST_ID, id);
    let elapsed = HeaderValue::from(line.begun.elapsed().as_millis() as u64);
    headers.insert(HeaderName::from_static("openai-processing-ms"), elapsed);
    let status = response.status().as_u16();
    response.map(|body| Body::new(Observed::new(body, line, status)))
}

/// The body of an answer, whose end is the end of the line.
struct Observed {
    body: Body,
    line: Line,
    /// The answer's status, which the line has once the body has gone out whole.
    status: u16,
}

impl Observed {
    fn new(body: Body, line: Line, status: u16) -> Self {
        let mut observed = Observed { body, line, status };
        // What has no body is complete, and so is what is not asked for: nobody polls these.
        if observed.body.is_end_stream() || observed.line.method == Method::HEAD {
            observed.line.status = status;
        }
        observed
    }
}

impl HttpBody for Observed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => self.line.bytes += frame.data_ref().map_or(0, Bytes::len),
            Poll::Ready(None) => self.line.status = self.status,
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        // Hyper asks no further once it has all the bytes that were announced.
        if self.body.is_end_stream() {
            self.line.status = self.status;
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

struct Line {
    state: AppState,
    endpoint: String,
    id: String,
    method: Method,
    path: String,
    begun: Instant,
    entry: LogEntry,
    status: u16,
    code: Option<&'static str>,
    /// Of the answer's body.
    bytes: usize,
}

impl Line {
    fn write(&self, generation: GenerationLog) {
        let GenerationLog { key, model, size, steps, n, priority, queue_position, timings, encode_image_ms } =
            generation;
        // The level of an event is fixed where it stands, hence the macro. Probes come every few
        // seconds and are of interest only when they fail.
        macro_rules! line {
            ($level:expr) => {
                tracing::event!(
                    $level,
                    request_id = self.id,
                    key = key.as_deref(),
                    method = %self.method,
                    path = self.path,
                    status = self.status,
                    code = self.code,
                    ms = self.begun.elapsed().as_secs_f64() * 1e3,
                    bytes = self.bytes,
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
                    "request"
                )
            };
        }
        let is_probe = PROBES.contains(&self.endpoint.as_str());
        if is_probe && self.status == StatusCode::OK.as_u16() {
            line!(tracing::Level::DEBUG);
        } else {
            line!(tracing::Level::INFO);
        }
    }
}

impl Drop for Line {
    /// Also runs when the client leaves and hyper drops the request's future or the answer's body.
    fn drop(&mut self) {
        let generation = self.entry.read();
        let outcome = match (self.code, self.status) {
            (Some(code), _) => code,
            (None, CLIENT_LEFT) => "client_left",
            (None, _) => "ok",
        };
        let has_pictures = outcome == "ok" && generation.timings.is_some();
        self.state.metrics.answered(&Answered {
            endpoint: &self.endpoint,
            model: self.state.config.model_id(),
            outcome,
            pictures_after: has_pictures.then(|| self.begun.elapsed()),
        });
        self.write(generation);
    }
}
