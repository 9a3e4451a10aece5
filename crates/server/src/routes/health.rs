//! Whether the process lives, and whether it takes requests.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::state::AppState;

/// The process answers.
pub(crate) async fn live() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

/// The model is loaded and takes requests; otherwise 503 with the reason.
pub(crate) async fn ready(State(state): State<AppState>) -> Result<Json<Value>, ApiError> {
    state.card()?;
    Ok(Json(json!({ "status": "ready", "model": state.config.model_id() })))
}
