//! The served model, by each of its names.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use diffusion::InputImageBounds;

use crate::api::answer::openai::{Model, ModelList};
use crate::api::error::ApiError;
use crate::state::AppState;

pub(crate) async fn list(State(state): State<AppState>) -> Json<ModelList> {
    let names = state.config.api.served_model_names.iter();
    Json(ModelList { object: "list", data: names.map(|name| model(&state, name)).collect() })
}

pub(crate) async fn retrieve(
    State(state): State<AppState>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Model>, ApiError> {
    let given = id.map(|Path(id)| id).unwrap_or_default();
    let available = &state.config.api.served_model_names;
    // A name may itself end with a slash.
    for given in [given.as_str(), given.trim_end_matches('/')] {
        if available.iter().any(|name| name == given) {
            return Ok(Json(model(&state, given)));
        }
    }
    Err(ApiError::UnknownModel { given: given.chars().take(80).collect(), available: available.clone() })
}

fn model(state: &AppState, name: &str) -> Model {
    let card = state.card().ok();
    let input_images = card.as_ref().map(|card| card.input_images);
    Model {
        id: name.to_owned(),
        object: "model",
        created: state.started,
        owned_by: "latentd",
        root: state.config.api.model_id().to_owned(),
        parent: None,
        task_types: input_images.map(task_types),
        min_input_images: input_images.map(|bounds| bounds.min_images),
        max_input_images: input_images.map(|bounds| bounds.max_images),
        default_size: card.map(|card| card.default_size.to_string()),
    }
}

/// The tasks of a model with these bounds on input pictures: text to image, and image to image.
pub(super) fn task_types(input_images: InputImageBounds) -> Vec<&'static str> {
    let tasks = [("t2i", input_images.min_images == 0), ("i2i", input_images.max_images > 0)];
    tasks.into_iter().filter(|(_, can)| *can).map(|(task, _)| task).collect()
}
