//! The endpoint that Prometheus scrapes.

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::IntoResponse;

use crate::metrics::Exposition;
use crate::state::AppState;

/// `GET /metrics`: OpenMetrics if the client asks for it, Prometheus's own text otherwise.
pub(crate) async fn scrape(State(state): State<AppState>, headers: HeaderMap) -> impl IntoResponse {
    let mut accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let exposition = if accepted.any(|value| value.contains("application/openmetrics-text")) {
        Exposition::OpenMetrics
    } else {
        Exposition::Prometheus
    };
    ([(header::CONTENT_TYPE, exposition.content_type())], state.metrics.render(exposition))
}
