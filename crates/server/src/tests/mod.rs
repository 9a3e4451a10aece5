//! The whole API on a fake pipeline, one topic a file.

mod access;
mod audits;
mod connections;
mod edits;
mod files;
mod forms;
mod generation;
mod idempotency;
mod image_urls;
mod jobs;
mod log;
mod masks;
mod metrics;
mod options;
mod picture_memory;
mod pictures;
#[allow(clippy::too_many_lines, reason = "tables of cases")]
mod refusals;
mod samplers;
mod sockets;
mod spans;
mod streaming;
mod surroundings;
mod upload_fuzz;
mod uploads;

use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::response::Parts;
use axum::http::{HeaderMap, Request, StatusCode};
use scheduler::fake::FakePipeline;
use scheduler::{Backoff, Load, Readiness, Scheduler, SchedulerConfig, SpawnOptions};
use serde_json::Value;
use tokio::time::timeout;
use tower::ServiceExt;

use crate::{AppState, Metrics, ServerConfig, app};

/// An answer that was read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
    pub(crate) json: Value,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// Settings of a server, with the model names that tests use.
pub(crate) fn config() -> ServerConfig {
    let mut config = ServerConfig::new("Fake/Fake-Image");
    config.api.served_model_names.push("gpt-image-1".into());
    config.api.limits.max_pixels = Some(256 * 256);
    config
}

/// The state of a server that is ready.
pub(crate) async fn state(pipeline: &FakePipeline) -> AppState {
    let bounds = SchedulerConfig { max_batch: 2, max_waiting: 2, ..SchedulerConfig::default() };
    bounded_state(pipeline, bounds).await
}

/// The state of a server that is ready, with these bounds. Its pipeline is not calibrated: that would wait at a closed
/// gate.
pub(crate) async fn bounded_state(pipeline: &FakePipeline, bounds: SchedulerConfig) -> AppState {
    configured_state(pipeline, bounds, config()).await
}

/// The same with these settings of the front end.
pub(crate) async fn configured_state(
    pipeline: &FakePipeline,
    bounds: SchedulerConfig,
    config: ServerConfig,
) -> AppState {
    let metrics = Metrics::default();
    let backoff = Backoff { first: Duration::from_millis(1), most: Duration::from_millis(4) };
    let bounds = SchedulerConfig { calibration: Duration::ZERO, backoff, ..bounds };
    let options = SpawnOptions { config: bounds, observer: Some(metrics.observer()) };
    let scheduler = Scheduler::spawn(options, vec![pipeline.factory()]);
    let is_ready = |readiness: &Readiness| matches!(readiness, Readiness::Ready(_));
    scheduler.readiness().wait_for(is_ready).await.unwrap();
    AppState::new(scheduler, config, metrics)
}

/// Waits until the scheduler's load is as `expected`.
pub(crate) async fn load_becomes(state: &AppState, expected: impl FnMut(&Load) -> bool) {
    let mut load = state.queue.load();
    let became = timeout(Duration::from_secs(10), load.wait_for(expected));
    became.await.expect("the load stays as it is").unwrap();
}

/// A server that is ready, with a default pipeline.
pub(crate) async fn fake_app() -> Router {
    app(state(&FakePipeline::default()).await)
}

pub(crate) async fn send(app: &Router, request: Request<Body>) -> Answer {
    let (parts, bytes) = fetch(app, request).await;
    let json = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    let text = String::from_utf8(bytes).unwrap();
    Answer { status: parts.status, headers: parts.headers, text, json }
}

/// Reads an answer that is not text.
pub(crate) async fn fetch(app: &Router, request: Request<Body>) -> (Parts, Vec<u8>) {
    let (parts, body) = app.clone().oneshot(request).await.unwrap().into_parts();
    (parts, to_bytes(body, usize::MAX).await.unwrap().into())
}

pub(crate) async fn get(app: &Router, path: &str) -> Answer {
    send(app, Request::get(path).body(Body::empty()).unwrap()).await
}

pub(crate) async fn generate(app: &Router, body: impl ToString) -> Answer {
    send(app, generation(body, &[])).await
}

/// A generation with these headers.
pub(crate) fn generation(body: impl ToString, headers: &[(&str, &str)]) -> Request<Body> {
    let request = Request::post("/v1/images/generations").header("content-type", "application/json");
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(Body::from(body.to_string())).unwrap()
}

/// The server-sent events of an answer: names and data, without comments.
pub(crate) fn events(text: &str) -> Vec<(String, Value)> {
    let event = |block: &str| {
        let lines: Vec<_> = block.lines().filter(|line| !line.starts_with(':')).collect();
        match lines[..] {
            [] => None,
            [event, data] => {
                let data = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
                Some((event.strip_prefix("event: ").unwrap().to_owned(), data))
            }
            _ => panic!("an event has one line of each: {block}"),
        }
    };
    text.split("\n\n").filter_map(event).collect()
}

/// The first pixel of a picture file of any format.
pub(crate) fn first_pixel(file: &[u8]) -> [u8; 3] {
    image::load_from_memory(file).unwrap().to_rgb8().get_pixel(0, 0).0
}

/// The decoded file of a JSON field.
pub(crate) fn decoded(b64_json: &Value) -> Vec<u8> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(b64_json.as_str().unwrap()).unwrap()
}
