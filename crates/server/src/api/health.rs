//! Answers of the liveness and readiness probes.

use serde::Serialize;
use utoipa::ToSchema;

/// The process is alive.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Alive {
    /// `ok`.
    pub(crate) status: &'static str,
}

/// The model is loaded and accepts requests.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Ready {
    /// `ready`.
    pub(crate) status: &'static str,
    /// The model's id.
    pub(crate) model: String,
}
