//! Whether the process lives, and whether it takes requests.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::ApiError;
use crate::state::AppState;

/// The process answers.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Alive {
    /// `ok`.
    status: &'static str,
}

/// The model is loaded and takes requests.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Ready {
    /// `ready`.
    status: &'static str,
    /// The model's id.
    model: String,
}

pub(crate) async fn live() -> Json<Alive> {
    Json(Alive { status: "ok" })
}

/// 503 with the reason where the model takes no requests.
pub(crate) async fn ready(State(state): State<AppState>) -> Result<Json<Ready>, ApiError> {
    state.card()?;
    Ok(Json(Ready { status: "ready", model: state.config.model_id().to_owned() }))
}
