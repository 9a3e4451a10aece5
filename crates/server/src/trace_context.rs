//! Distributed tracing: a request's parent span by the W3C's `traceparent`.

use axum::http::HeaderMap;
use tracing::Span;

/// Makes `span` a child of the span that the headers name. Without such headers it is the root of a trace.
#[cfg(feature = "otlp")]
pub(crate) fn continue_trace(span: &Span, headers: &HeaderMap) {
    use opentelemetry::global::get_text_map_propagator;
    use tracing_opentelemetry::OpenTelemetrySpanExt;

    let parent = get_text_map_propagator(|propagator| propagator.extract(&Headers(headers)));
    if let Err(err) = span.set_parent(parent) {
        // No exporter is configured, or the span is filtered out.
        tracing::trace!(error = %err, "the trace is not continued");
    }
}

/// Without the exporter, spans stay in this process.
#[cfg(not(feature = "otlp"))]
pub(crate) fn continue_trace(_: &Span, _: &HeaderMap) {}

#[cfg(feature = "otlp")]
struct Headers<'a>(&'a HeaderMap);

#[cfg(feature = "otlp")]
impl opentelemetry::propagation::Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(axum::http::HeaderName::as_str).collect()
    }
}
