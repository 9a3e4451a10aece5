//! Every failure that a client can see, in OpenAI's schema: the only map from errors to statuses.

use std::any::Any;
use std::time::Duration;

use axum::Json;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytesize::ByteSize;
use diffusion::{InvalidRequest, PipelineError};
use scheduler::{JobError, SubmitError};

use crate::api::answer::openai::{ErrorBody, ErrorResponse};
use crate::api::bounds::BodyLimit;
use crate::api::bounds::TooSlow;
use crate::api::bounds::{MemoryFull, Purpose};

/// A failure in any stage of a request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("The body is not valid JSON: {0}")]
    InvalidJson(serde_json::Error),
    #[error("The body must be a JSON object. Given: {0}")]
    NotAnObject(&'static str),
    #[error("The body could not be read: {0}")]
    UnreadableBody(String),
    /// 408, which clients may retry: the network stalled, and no work was started.
    #[error("The upload {0}")]
    StalledUpload(TooSlow),
    #[error("The host {0:?} is not allowed (the server's --allowed-hosts)")]
    HostNotAllowed(String),
    #[error("Pages of {0} may not call this server (its --cors-allow-origin)")]
    OriginNotAllowed(String),
    #[error("{}", invalid_key(*given))]
    InvalidApiKey { given: bool },
    #[error("This key has reached its rate limit; retry in {:.1} s", wait.as_secs_f64())]
    RateLimited { wait: Duration },
    #[error("Missing required parameter: `{0}`")]
    Missing(&'static str),
    /// A field of the wrong JSON type.
    #[error(transparent)]
    WrongType(InvalidRequest),
    /// A field with a value that no model takes.
    #[error(transparent)]
    InvalidValue(#[from] InvalidRequest),
    /// A field that asks for a feature that this server or its model lacks.
    #[error(transparent)]
    Unsupported(InvalidRequest),
    #[error("The model `{given}` does not exist. Available: {}", available.join(", "))]
    UnknownModel { given: String, available: Vec<String> },
    #[error("Unknown URL: {method} {path}{}", suggestion.map(|known| format!(". Did you mean {known}?")).unwrap_or_default())]
    UnknownUrl { method: Method, path: String, suggestion: Option<&'static str> },
    #[error("{path} does not take {method}")]
    MethodNotAllowed { method: Method, path: String },
    #[error("Content-Type must be {expected}. Given: {given}")]
    ContentType { expected: &'static str, given: String },
    #[error("Content-Encoding must be absent: compressed bodies are not accepted. Given: {given}")]
    ContentEncoding { given: String },
    /// `param` is the part's name, if it has one.
    #[error("The form cannot be read: {message}")]
    InvalidForm { message: String, param: Option<String> },
    /// A file that is not a picture, or cannot be decoded.
    #[error(transparent)]
    InvalidImage(InvalidRequest),
    #[error(transparent)]
    ImageTooLarge(InvalidRequest),
    #[error("Variations are not supported (OpenAI has retired them). Use POST /v1/images/edits with a prompt")]
    NoVariations,
    #[error("The body must have at most {} bytes (the server's {})", limit.bytes, limit.flag)]
    BodyTooLarge { limit: BodyLimit },
    /// 429, as for a full queue: no work was started, and other requests' memory will soon be free.
    #[error(transparent)]
    MemoryFull(#[from] MemoryFull),
    /// A full queue and a deadline that cannot be met are both 429, with the time after which a retry may succeed, if
    /// any.
    #[error("{}", refusal(.0))]
    Submit(#[from] SubmitError),
    #[error(transparent)]
    Job(#[from] JobError),
    #[error("{0}")]
    Internal(String),
    /// The last watcher left, or a client cancelled the job.
    #[error("The request was cancelled")]
    Cancelled,
    #[error("The job `{0}` does not exist, or is no longer kept")]
    JobNotFound(String),
    #[error(
        "No more jobs can be kept (the server's --max-job-memory, and at most 1024): delete some, or wait until their \
         results expire"
    )]
    JobsFull { wait: Duration },
    #[error("This `Idempotency-Key` was used for a different request")]
    KeyReused,
    #[error("The URL's signature is not this server's")]
    InvalidSignature,
    #[error("The URL expired {seconds} s ago")]
    UrlExpired { seconds: u64 },
    #[error("The picture is no longer kept")]
    FileNotFound,
}

/// The error code of a failure, kept in a response's extensions for the log line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ErrorCode(pub(crate) &'static str);

/// Message for a failure of the server itself; only the log has the details.
const INTERNAL: &str =
    "The server failed to make the picture; its log has the reason under this request's x-request-id";

const INTERNAL_CODE: &str = "internal_error";

/// The same for a request that itself crashes the model.
const CRASHES_MODEL: &str = "This request crashed the model twice and is not retried; the server's log has the reason \
    under this request's x-request-id";

const CRASHES_MODEL_CODE: &str = "crashes_model";

/// Retry time while the model loads, another instance takes over, or uploads are read.
const COME_BACK_IN: Duration = Duration::from_secs(5);
/// Bounds of Retry-After: the Node client ignores more than a minute and retries at once.
const RETRY_AFTER: (u64, u64) = (1, 60);

/// Whether an automatic retry makes sense, for `x-should-retry`.
enum Retry {
    /// The status alone decides.
    AsTheStatusSays,
    /// A retry will fail again.
    Never,
    After(Duration),
    /// Exact to the millisecond, unlike the estimate of [`Retry::After`].
    AfterExactly(Duration),
    /// This instance is starting or stopping; another may answer at once.
    Elsewhere,
}

impl ApiError {
    /// Status, `type`, `code` and `param`.
    #[allow(clippy::too_many_lines, reason = "a table: one line a failure")]
    fn parts(&self) -> (StatusCode, &'static str, &'static str, Option<&str>) {
        let invalid = |status, code, param| (status, "invalid_request_error", code, param);
        let bad_request = |code, param| invalid(StatusCode::BAD_REQUEST, code, param);
        let unavailable = |code| (StatusCode::SERVICE_UNAVAILABLE, "server_error", code, None);
        let internal = |code| (StatusCode::INTERNAL_SERVER_ERROR, "server_error", code, None);
        match self {
            ApiError::InvalidJson(_) | ApiError::NotAnObject(_) => bad_request("invalid_json", None),
            ApiError::InvalidForm { param, .. } => bad_request("invalid_multipart", param.as_deref()),
            ApiError::InvalidImage(err) => bad_request("invalid_image_file", Some(err.field)),
            ApiError::ImageTooLarge(err) => bad_request("image_too_large", Some(err.field)),
            ApiError::NoVariations => bad_request("unsupported_endpoint", None),
            ApiError::UnreadableBody(_) => bad_request("invalid_body", None),
            ApiError::StalledUpload(_) => invalid(StatusCode::REQUEST_TIMEOUT, "upload_stalled", None),
            ApiError::HostNotAllowed(_) => invalid(StatusCode::FORBIDDEN, "host_not_allowed", None),
            ApiError::OriginNotAllowed(_) => invalid(StatusCode::FORBIDDEN, "origin_not_allowed", None),
            ApiError::InvalidApiKey { .. } => invalid(StatusCode::UNAUTHORIZED, "invalid_api_key", None),
            ApiError::RateLimited { .. } => {
                (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "rate_limit_exceeded", None)
            }
            ApiError::Missing(param) => bad_request("missing_required_parameter", Some(param)),
            ApiError::WrongType(err) => bad_request("invalid_type", Some(err.field)),
            ApiError::InvalidValue(err) | ApiError::Job(JobError::Pipeline(PipelineError::Invalid(err))) => {
                bad_request("invalid_value", Some(err.field))
            }
            ApiError::Unsupported(err) => bad_request("unsupported_value", Some(err.field)),
            ApiError::UnknownModel { .. } => invalid(StatusCode::NOT_FOUND, "model_not_found", Some("model")),
            ApiError::UnknownUrl { .. } => invalid(StatusCode::NOT_FOUND, "unknown_url", None),
            ApiError::MethodNotAllowed { .. } => invalid(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", None),
            ApiError::ContentType { .. } => {
                invalid(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_content_type", None)
            }
            ApiError::ContentEncoding { .. } => {
                invalid(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_content_encoding", None)
            }
            ApiError::BodyTooLarge { .. } => invalid(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", None),
            ApiError::MemoryFull(MemoryFull { what, .. }) => {
                let code = match what {
                    Purpose::Uploads => "uploads_full",
                    Purpose::Pictures => "pictures_full",
                };
                (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", code, None)
            }
            ApiError::Submit(SubmitError::QueueFull { .. }) => {
                (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "queue_full", None)
            }
            ApiError::Submit(SubmitError::TooLate { .. } | SubmitError::NeverInTime { .. }) => {
                (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "deadline_too_short", None)
            }
            ApiError::Submit(SubmitError::TooLarge { .. }) => bad_request("request_too_large", Some("size")),
            ApiError::Job(JobError::TooLate) => {
                (StatusCode::GATEWAY_TIMEOUT, "server_error", "deadline_exceeded", None)
            }
            ApiError::Submit(SubmitError::Loading) => unavailable("model_loading"),
            ApiError::Submit(SubmitError::Failed(_)) => unavailable("model_failed"),
            ApiError::Submit(SubmitError::ShuttingDown) | ApiError::Job(JobError::ShuttingDown) => {
                unavailable("shutting_down")
            }
            ApiError::Cancelled => unavailable("cancelled"),
            ApiError::JobNotFound(_) => invalid(StatusCode::NOT_FOUND, "job_not_found", None),
            ApiError::JobsFull { .. } => (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "jobs_full", None),
            ApiError::KeyReused => bad_request("idempotency_key_reused", None),
            ApiError::InvalidSignature => invalid(StatusCode::FORBIDDEN, "invalid_signature", None),
            ApiError::UrlExpired { .. } => invalid(StatusCode::FORBIDDEN, "url_expired", None),
            ApiError::FileNotFound => invalid(StatusCode::NOT_FOUND, "file_not_found", None),
            ApiError::Job(JobError::Pipeline(PipelineError::OutOfMemory)) => internal("out_of_memory"),
            ApiError::Job(JobError::Pipeline(PipelineError::NotFinite { .. })) => internal("not_finite"),
            ApiError::Job(JobError::CrashesModel(_)) => internal(CRASHES_MODEL_CODE),
            ApiError::Job(
                JobError::Pipeline(PipelineError::Model(_) | PipelineError::DeviceLost(_) | PipelineError::Interrupted)
                | JobError::Crashed
                // No client waits for idle work.
                | JobError::GaveWay,
            )
            | ApiError::Internal(_) => internal(INTERNAL_CODE),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            ApiError::RateLimited { wait } => Retry::AfterExactly(*wait),
            ApiError::Submit(SubmitError::QueueFull { place_in, .. }) => Retry::After(*place_in),
            ApiError::Submit(SubmitError::TooLate { predicted, deadline, .. }) => {
                Retry::After(predicted.saturating_sub(*deadline))
            }
            ApiError::JobsFull { wait } => Retry::After(*wait),
            ApiError::MemoryFull(_) => Retry::After(COME_BACK_IN),
            ApiError::Submit(SubmitError::Loading | SubmitError::ShuttingDown)
            | ApiError::Cancelled
            | ApiError::Job(JobError::ShuttingDown) => Retry::Elsewhere,
            ApiError::Submit(SubmitError::Failed(_) | SubmitError::NeverInTime { .. })
            | ApiError::Job(_)
            | ApiError::Internal(_) => Retry::Never,
            _ => Retry::AsTheStatusSays,
        }
    }
}

fn invalid_key(given: bool) -> &'static str {
    if given { "Incorrect API key" } else { "No API key was given: send it as `Authorization: Bearer KEY`" }
}

/// The message for a refused submission: the scheduler's, plus the field or flag if the client can change something.
fn refusal(err: &SubmitError) -> String {
    match *err {
        SubmitError::TooLarge { bytes, budget } => {
            let bound = "be such that a picture needs at most";
            let (budget, bytes) = (ByteSize::b(budget), ByteSize::b(bytes));
            format!("`size` must {bound} {budget} of memory (the server's --memory-budget). Given: {bytes}")
        }
        SubmitError::QueueFull { .. } => format!("{err} (the server's --max-waiting and --max-backlog-seconds)"),
        SubmitError::TooLate { .. } => format!("{err} ({WHOSE_DEADLINE}). Retry later, or allow more time"),
        SubmitError::NeverInTime { .. } => {
            format!(
                "{err} ({WHOSE_DEADLINE}). Ask for fewer steps, a smaller size or fewer pictures, or allow more time"
            )
        }
        _ => err.to_string(),
    }
}

const WHOSE_DEADLINE: &str = "the least of the request's timeouts and the server's --max-request-seconds";

impl ApiError {
    /// The error for a form, with the name of the part.
    pub(crate) fn form(message: impl Into<String>, param: Option<&str>) -> Self {
        ApiError::InvalidForm { message: message.into(), param: param.map(str::to_owned) }
    }

    /// The stable error code.
    pub(crate) fn code(&self) -> &'static str {
        self.parts().2
    }

    /// The body for the client.
    pub(crate) fn body(&self) -> ErrorBody {
        let (_, r#type, code, param) = self.parts();
        let message = match code {
            INTERNAL_CODE => INTERNAL.to_owned(),
            CRASHES_MODEL_CODE => CRASHES_MODEL.to_owned(),
            _ => self.to_string(),
        };
        ErrorBody { message, r#type, param: param.map(str::to_owned), code }
    }

    /// Logs the details that the client does not see.
    pub(crate) fn log(&self) {
        if [INTERNAL_CODE, CRASHES_MODEL_CODE].contains(&self.code()) {
            tracing::error!(error = %self, "the request failed");
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.log();
        let (status, _, code, _) = self.parts();
        let error = self.body();
        let mut response = (status, Json(ErrorResponse { error })).into_response();
        response.extensions_mut().insert(ErrorCode(code));
        self.retry().write(response.headers_mut());
        if matches!(self, ApiError::ContentEncoding { .. }) {
            response.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl Retry {
    fn write(self, headers: &mut axum::http::HeaderMap) {
        let (should, after) = match self {
            Retry::AsTheStatusSays => return,
            Retry::Never => (Some("false"), None),
            Retry::After(wait) => (None, Some(wait)),
            Retry::AfterExactly(wait) => {
                let ms = wait.as_micros().div_ceil(1000).min(u128::from(RETRY_AFTER.1) * 1000) as u64;
                headers.insert(HeaderName::from_static("retry-after-ms"), ms.into());
                (None, Some(wait))
            }
            Retry::Elsewhere => (Some("true"), Some(COME_BACK_IN)),
        };
        if let Some(should) = should {
            headers.insert(HeaderName::from_static("x-should-retry"), HeaderValue::from_static(should));
        }
        if let Some(after) = after {
            let seconds = after.as_secs_f64().ceil() as u64;
            headers.insert(header::RETRY_AFTER, seconds.clamp(RETRY_AFTER.0, RETRY_AFTER.1).into());
        }
    }
}

/// The answer to a handler that panicked.
pub(crate) fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into());
    ApiError::Internal(format!("a handler panicked: {text}")).into_response()
}

#[cfg(test)]
mod tests;
