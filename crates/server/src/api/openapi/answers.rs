//! Answers in the API description: their schemas and headers, and the common schema of all failures.

use serde_json::Value;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::link::Link;
use utoipa::openapi::schema::Type;
use utoipa::openapi::{Header, HeaderBuilder, Object, Ref, RefOr, Response, ResponseBuilder, Schema};
use utoipa::openapi::{ObjectBuilder, OneOfBuilder};

use super::schema::{of, text};
use pictures::OutputFormat;

/// A header's name, type and description.
type NamedField = (&'static str, Type, &'static str);

/// Headers of every answer.
const ALWAYS: [NamedField; 2] = [
    ("x-request-id", Type::String, "The request's id: the client's, or a generated one."),
    ("openai-processing-ms", Type::Integer, "Milliseconds until the answer began."),
];
const RETRY: [NamedField; 3] = [
    ("retry-after", Type::Integer, "Seconds, 1 to 60, after which a retry may succeed."),
    ("retry-after-ms", Type::Integer, "The same in milliseconds, if it is known exactly."),
    ("x-should-retry", Type::String, "Whether an automatic retry makes sense, if the status alone does not say it."),
];
const RATE_LIMIT: [NamedField; 3] = [
    ("x-ratelimit-limit-requests", Type::Integer, "Requests that the key may send at once. Only with `--rate-limit`."),
    ("x-ratelimit-remaining-requests", Type::Integer, "How many of them are left."),
    ("x-ratelimit-reset-requests", Type::String, "Time until all of them are back, such as `1s` or `6m0s`."),
];
const PICTURES: [NamedField; 7] = [
    ("x-queue-ms", Type::Integer, "Milliseconds in the queue."),
    ("x-queue-position", Type::Integer, "Jobs that were queued ahead of the request's first."),
    ("x-seed", Type::Integer, "The picture's seed, if the answer is its file."),
    (
        "x-warnings",
        Type::String,
        "How the answer differs from the request, if the answer is a file: sentences separated by ` | `.",
    ),
    ("x-ignored-params", Type::String, "Given fields that have no effect."),
    (
        "x-generated-size",
        Type::String,
        "Size at which the pictures were made, if the model was made for certain sizes and another was requested.",
    ),
    (
        "idempotent-replayed",
        Type::String,
        "`true` if the answer is that of an earlier request with the same `idempotency-key`.",
    ),
];

/// Description of each error status.
const REFUSALS: [(u16, &str); 11] = [
    (400, "A field is missing, has a wrong type, or asks for something unsupported: `param` names it."),
    (401, "The server has keys, and the request has none of them."),
    (403, "The URL's signature is invalid, or it has expired."),
    (404, "There is no such resource, at least not for this caller."),
    (408, "The upload stalled."),
    (413, "The body is too large. The server still reads the rest, so that the answer arrives."),
    (415, "The body has a type that the route does not accept, or is compressed."),
    (429, "The key's limit is reached, the queue is full, or the answer would come too late."),
    (500, "The server failed; its log has the reason under the request's id."),
    (503, "The model is loading, has failed, or the server is stopping."),
    (504, "The request's deadline passed."),
];

/// A JSON answer with the schema `name`.
pub(super) fn json(description: &str, name: &str) -> ResponseBuilder {
    response(description).content("application/json", content(Ref::from_schema_name(name), None))
}

pub(super) fn response(description: &str) -> ResponseBuilder {
    with(ResponseBuilder::new().description(description), &ALWAYS)
}

/// The answers of a route that makes pictures: JSON, a stream or a file.
pub(super) fn pictures() -> ResponseBuilder {
    let answer = with_events(json("All pictures.", "ImagesResponse"));
    with(with(with_file(answer), &PICTURES), &RATE_LIMIT)
}

/// The event stream of a job.
pub(super) fn events() -> ResponseBuilder {
    with_events(response("The events of the request's stream, from the beginning."))
}

/// An answer that is a picture file.
pub(super) fn picture_file() -> ResponseBuilder {
    with_file(response("The picture."))
}

/// The answer that accepts an async job.
pub(super) fn job_taken() -> ResponseBuilder {
    let answer = json("A job to poll.", "ImageJob");
    let location = header(Type::String, "The job's URL: `/v1/images/jobs/{id}`.");
    let answer = with(with(answer, &PICTURES), &RATE_LIMIT).header("location", location);
    let operations = ["job", "job_events", "cancel_job"];
    operations
        .into_iter()
        .fold(answer, |answer, operation| answer.link(operation, link(operation, "$response.body#/id")))
}

/// A link from an answer to `operation`, with an id from the answer.
pub(super) fn link(operation: &str, id: &str) -> Link {
    Link::builder().operation_id(operation).parameter("id", id).build()
}

fn with_events(answer: ResponseBuilder) -> ResponseBuilder {
    answer.content("text/event-stream", content(Ref::from_schema_name(STREAM), None))
}

/// Name of the schema of a stream event.
pub(super) const STREAM: &str = "StreamEvent";

/// The schema of an event: its fields in wire format, with JSON in `data`.
pub(super) fn stream_event() -> Schema {
    let description = "An `event:` line with the type and a `data:` line of JSON. Comments keep the connection alive; \
         there is no `[DONE]`. A failure on the way is an event `error`, the last one.";
    let events = [
        ("PartialImageEvent", &["image_generation.partial_image", "image_edit.partial_image"][..]),
        ("ProgressEvent", &["image_generation.progress", "image_edit.progress"]),
        ("RestartedEvent", &["image_generation.restarted", "image_edit.restarted"]),
        ("CompletedEvent", &["image_generation.completed", "image_edit.completed"]),
        ("ErrorEvent", &["error"]),
    ];
    let one_of =
        events.into_iter().fold(OneOfBuilder::new().description(Some(description)), |one_of, (name, types)| {
            let data =
                text("").content_media_type("application/json").content_schema(Some(Ref::from_schema_name(name)));
            let event = ObjectBuilder::new().property("event", text("").enum_values(Some(types.iter().copied())));
            one_of.item(event.property("data", data).required("event").required("data"))
        });
    one_of.build().into()
}

fn with_file(answer: ResponseBuilder) -> ResponseBuilder {
    let formats = [OutputFormat::Png, OutputFormat::Jpeg, OutputFormat::WebP];
    formats.into_iter().fold(answer, |answer, format| {
        answer.content(format.media_type(), content(of(Type::String, "The file."), None))
    })
}

pub(super) fn refusal(status: u16) -> Response {
    let (_, description) =
        REFUSALS.into_iter().find(|(known, _)| *known == status).expect("the status has a text. This is a bug.");
    let answer = json(description, "ErrorResponse");
    let answer = match status {
        401 => answer.header("www-authenticate", header(Type::String, "`Bearer`.")),
        429 => with(with(answer, &RETRY), &RATE_LIMIT),
        500 | 503 | 504 => with(answer, &RETRY),
        _ => answer,
    };
    answer.build()
}

pub(super) fn content(schema: impl Into<RefOr<Schema>>, example: Option<Value>) -> utoipa::openapi::Content {
    ContentBuilder::new().schema(Some(schema)).example(example).build()
}

pub(super) fn header(kind: Type, description: &str) -> Header {
    HeaderBuilder::new().schema(Some(Object::with_type(kind))).description(Some(description)).build()
}

pub(super) fn with(answer: ResponseBuilder, headers: &[NamedField]) -> ResponseBuilder {
    headers
        .iter()
        .fold(answer, |answer, (name, kind, description)| answer.header(*name, header(kind.clone(), description)))
}
