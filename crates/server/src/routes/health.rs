//! Liveness and readiness.

use axum::Json;
use axum::extract::State;

use crate::api::error::ApiError;
use crate::api::health::{Alive, Ready};
use crate::state::AppState;

pub(crate) async fn live() -> Json<Alive> {
    Json(Alive { status: "ok" })
}

/// Answers 503 with the reason if the model accepts no requests.
pub(crate) async fn ready(State(state): State<AppState>) -> Result<Json<Ready>, ApiError> {
    state.card()?;
    Ok(Json(Ready { status: "ready", model: state.config.api.model_id().to_owned() }))
}
