//! Export of spans to an OpenTelemetry collector over http/protobuf.

use crate::error::Error;
use opentelemetry::trace::TracerProvider;
use opentelemetry::{KeyValue, global};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::registry::LookupSpan;

/// Sends spans in batches from its own thread, and the last batch when it is dropped.
pub(crate) struct Exporter {
    provider: SdkTracerProvider,
}

impl Exporter {
    /// An exporter that sends to the collector at `url` as `service_name`. `/v1/traces` is appended if missing.
    ///
    /// # Errors
    /// The URL is invalid.
    pub(super) fn new(url: &str, service_name: &str) -> Result<Self, Error> {
        // The exporter builds its own client, which needs a TLS provider.
        http_client::use_ring();
        let base = url.trim_end_matches('/').trim_end_matches("/v1/traces");
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{base}/v1/traces"))
            .build()
            .map_err(|err| Error::Flag(format!("`--otlp-endpoint`: {err}. Given: {url}")))?;
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let resource = Resource::builder().with_service_name(service_name.to_owned()).with_attribute(version);
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build());
        global::set_text_map_propagator(TraceContextPropagator::new());
        Ok(Exporter { provider: provider.build() })
    }

    /// The layer that converts spans of level info and above to OpenTelemetry spans.
    pub(super) fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    {
        let tracer = self.provider.tracer(env!("CARGO_PKG_NAME"));
        tracing_opentelemetry::layer().with_tracer(tracer).with_filter(LevelFilter::INFO)
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        if let Err(err) = self.provider.shutdown() {
            crate::terminal::notice(&format!("the last spans were not sent: {err}"));
        }
    }
}
