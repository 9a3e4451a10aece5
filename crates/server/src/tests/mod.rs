//! The API as a whole, on a fake pipeline. Each file says what belongs into it.

mod access;
mod connections;
mod edits;
mod forms;
mod generation;
mod log;
mod metrics;
mod options;
mod refusals;
mod sockets;
mod spans;
mod surroundings;
mod uploads;

use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use scheduler::fake::FakePipeline;
use scheduler::{Load, Readiness, Scheduler, SchedulerConfig, SpawnOptions};
use serde_json::Value;
use tokio::time::timeout;
use tower::ServiceExt;

use crate::{AppState, Metrics, ServerConfig, app};

/// An answer, read to its end.
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

/// A server's settings, under the names that tests use.
pub(crate) fn config() -> ServerConfig {
    let mut config = ServerConfig::new("Fake/Fake-Image");
    config.served_model_names.push("gpt-image-1".into());
    config.limits.max_pixels = 256 * 256;
    config
}

/// The state of a server that is ready.
pub(crate) async fn state(pipeline: &FakePipeline) -> AppState {
    let bounds = SchedulerConfig { max_batch: 2, max_waiting: 2, ..SchedulerConfig::default() };
    bounded_state(pipeline, bounds).await
}

/// The state of a server that is ready, with these bounds. Its pipeline was not measured: that
/// would wait at a closed gate.
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
    let bounds = SchedulerConfig { calibration: Duration::ZERO, ..bounds };
    let options = SpawnOptions { config: bounds, observer: Some(metrics.observer()) };
    let scheduler = Scheduler::spawn(options, vec![pipeline.factory()]);
    let is_ready = |readiness: &Readiness| matches!(readiness, Readiness::Ready(_));
    scheduler.readiness().wait_for(is_ready).await.unwrap();
    AppState::new(scheduler, config, metrics)
}

/// Waits until the scheduler's load is as `expected`.
pub(crate) async fn load_becomes(state: &AppState, expected: impl FnMut(&Load) -> bool) {
    let mut load = state.scheduler.load();
    let became = timeout(Duration::from_secs(10), load.wait_for(expected));
    became.await.expect("the load stays as it is").unwrap();
}

/// A server that is ready, on a pipeline of no particular kind.
pub(crate) async fn fake_app() -> Router {
    app(state(&FakePipeline::default()).await)
}

pub(crate) async fn send(app: &Router, request: Request<Body>) -> Answer {
    let (parts, body) = app.clone().oneshot(request).await.unwrap().into_parts();
    let bytes = to_bytes(body, usize::MAX).await.unwrap();
    let json = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    let text = String::from_utf8(bytes.into()).unwrap();
    Answer { status: parts.status, headers: parts.headers, text, json }
}

pub(crate) async fn get(app: &Router, path: &str) -> Answer {
    send(app, Request::get(path).body(Body::empty()).unwrap()).await
}

pub(crate) async fn generate(app: &Router, body: impl ToString) -> Answer {
    let request = Request::post("/v1/images/generations").header("content-type", "application/json");
    send(app, request.body(Body::from(body.to_string())).unwrap()).await
}
