//! End-to-end test of the export of spans to a collector.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use scheduler::fake::FakePipeline;
use scheduler::{Readiness, Scheduler, SpawnOptions};
use server::{AppState, Metrics, ServerConfig};
use tokio::net::TcpListener;

use super::{LogFlags, init};

/// The requests that the collector received.
#[derive(Clone, Default)]
struct Collected(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

async fn collect(State(collected): State<Collected>, headers: HeaderMap, body: Bytes) -> StatusCode {
    assert_eq!(headers["content-type"], "application/x-protobuf");
    collected.0.lock().unwrap().push(ExportTraceServiceRequest::decode(body).unwrap());
    StatusCode::OK
}

impl Collected {
    /// All received spans, each with its service's name.
    fn spans(&self) -> Vec<(String, Span)> {
        let requests = self.0.lock().unwrap();
        let resources = requests.iter().flat_map(|request| &request.resource_spans);
        let spans = resources.flat_map(|resource| {
            let attributes = resource.resource.iter().flat_map(|resource| &resource.attributes);
            let name = attributes.filter(|attribute| attribute.key == "service.name");
            let name = name.filter_map(|attribute| attribute.value.clone()?.value).find_map(|value| match value {
                any_value::Value::StringValue(name) => Some(name),
                _ => None,
            });
            let spans = resource.scope_spans.iter().flat_map(|scope| scope.spans.clone());
            spans.map(move |span| (name.clone().unwrap_or_default(), span))
        });
        spans.collect()
    }
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

async fn serve_fake() -> String {
    let scheduler = Scheduler::spawn(SpawnOptions::default(), vec![FakePipeline::default().factory()]);
    scheduler.readiness().wait_for(|readiness| matches!(readiness, Readiness::Ready(_))).await.unwrap();
    let state = AppState::new(scheduler, ServerConfig::new("Fake/Fake-Image"), Metrics::default());
    let (listener, url) = listen().await;
    tokio::spawn(async { axum::serve(listener, server::app(state)).await });
    url
}

#[test]
fn a_request_is_a_span_of_the_trace_that_it_came_with() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let collected = Collected::default();
    let app = Router::new().route("/v1/traces", post(collect)).with_state(collected.clone());
    let (listener, endpoint) = runtime.block_on(listen());
    runtime.spawn(async { axum::serve(listener, app).await });

    let flags = LogFlags { otlp_endpoint: Some(endpoint), otlp_service_name: "pictures".into(), ..LogFlags::default() };
    let exporter = init(&flags).unwrap();
    let (trace_id, parent) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    runtime.block_on(async {
        let url = format!("{}/v1/images/generations", serve_fake().await);
        let client = http_client::http_client().build().unwrap();
        for traceparent in [Some(format!("00-{trace_id}-{parent}-01")), None] {
            let request = client.post(&url).header("content-type", "application/json");
            let request = request.body(r#"{"prompt": "a hidden cat"}"#).timeout(Duration::from_secs(30));
            let request = traceparent.into_iter().fold(request, |request, value| request.header("traceparent", value));
            assert_eq!(request.send().await.unwrap().status(), 200);
        }
    });
    // Dropping the exporter sends the last spans.
    drop(exporter);

    let spans = collected.spans();
    let requests: Vec<_> = spans.iter().filter(|(_, span)| span.name == "request").collect();
    assert_eq!(requests.len(), 2, "{spans:?}");
    assert!(requests.iter().all(|(service, _)| service == "pictures"), "{spans:?}");
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let ids: Vec<_> = requests.iter().map(|(_, span)| (hex(&span.trace_id), hex(&span.parent_span_id))).collect();
    assert_eq!(ids[0], (trace_id.to_owned(), parent.to_owned()));
    assert!(ids[1].0 != trace_id && ids[1].1.is_empty(), "{ids:?}");
    assert!(!format!("{spans:?}").contains("hidden"), "prompts stay here");
}
