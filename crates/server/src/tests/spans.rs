//! Tracing spans: one for each stage, inside the request's span.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use axum::body::Body;
use axum::http::Request;
use tracing::Subscriber;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::log::subscribe;
use super::{fake_app, send};

/// Collects the names of the spans that ended inside each request, on any thread.
pub(super) struct Spans;

static ENDED: Mutex<Option<HashMap<String, Vec<&'static str>>>> = Mutex::new(None);

/// The field of the span that names its request.
#[derive(Default)]
struct RequestId(Option<String>);

impl Visit for RequestId {
    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "request_id" {
            self.0 = Some(value.to_owned());
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut request_id = RequestId::default();
        attributes.record(&mut request_id);
        context.span(id).unwrap().extensions_mut().insert(request_id);
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let span = context.span(&id).unwrap();
        let Some(parent) = span.parent() else { return };
        let request = parent.extensions().get::<RequestId>().and_then(|id| id.0.clone());
        if let Some(request) = request {
            let mut ended = ENDED.lock().unwrap_or_else(PoisonError::into_inner);
            ended.get_or_insert_default().entry(request).or_default().push(span.name());
        }
    }
}

#[tokio::test]
async fn every_stage_is_a_span_of_its_request() {
    subscribe();
    let app = fake_app().await;
    for (id, steps) in [("spans-of-two-steps", 2), ("spans-of-one-step", 1)] {
        let request = Request::post("/v1/images/generations").header("x-request-id", id);
        let body = format!(r#"{{"prompt": "a cat", "num_inference_steps": {steps}}}"#);
        let request = request.header("content-type", "application/json").body(Body::from(body)).unwrap();
        assert_eq!(send(&app, request).await.status, 200);
    }
    let ended = ENDED.lock().unwrap().take().unwrap();
    assert_eq!(ended["spans-of-two-steps"], ["queue", "encode", "step", "step", "decode", "encode_image"]);
    assert_eq!(ended["spans-of-one-step"], ["queue", "encode", "step", "decode", "encode_image"]);
}
