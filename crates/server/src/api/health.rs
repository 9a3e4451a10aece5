//! Whether the process lives, and whether it takes requests.

use serde::Serialize;
use utoipa::ToSchema;

/// The process answers.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Alive {
    /// `ok`.
    pub(crate) status: &'static str,
}

/// The model is loaded and takes requests.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Ready {
    /// `ready`.
    pub(crate) status: &'static str,
    /// The model's id.
    pub(crate) model: String,
}
