//! The API as a whole, on a fake pipeline. Each file says what belongs into it.

mod generation;
mod log;
mod refusals;
mod sockets;
mod surroundings;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use scheduler::fake::FakePipeline;
use scheduler::{Readiness, Scheduler, SchedulerConfig};
use serde_json::Value;
use tower::ServiceExt;

use crate::{AppState, ServerConfig, app};

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
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
    let scheduler_config = SchedulerConfig { max_batch: 2, max_waiting: 2 };
    let scheduler = Scheduler::spawn(scheduler_config, vec![pipeline.factory()]);
    let is_ready = |readiness: &Readiness| matches!(readiness, Readiness::Ready(_));
    scheduler.readiness().wait_for(is_ready).await.unwrap();
    AppState::new(scheduler, config())
}

/// A server that is ready, on a pipeline of no particular kind.
pub(crate) async fn fake_app() -> Router {
    app(state(&FakePipeline::default()).await)
}

pub(crate) async fn send(app: &Router, request: Request<Body>) -> Answer {
    let (parts, body) = app.clone().oneshot(request).await.unwrap().into_parts();
    let bytes = to_bytes(body, usize::MAX).await.unwrap();
    let json = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    Answer { status: parts.status, headers: parts.headers, json }
}

pub(crate) async fn get(app: &Router, path: &str) -> Answer {
    send(app, Request::get(path).body(Body::empty()).unwrap()).await
}

pub(crate) async fn generate(app: &Router, body: impl ToString) -> Answer {
    let request = Request::post("/v1/images/generations").header("content-type", "application/json");
    send(app, request.body(Body::from(body.to_string())).unwrap()).await
}
