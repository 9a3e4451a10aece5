//! `GET /openapi.json`: the machine-readable API description. Bounds and values come from the constants that validation
//! uses, answers from the types that are serialized.

mod answers;
mod bodies;
mod routes;
mod schema;
#[cfg(test)]
mod tests;

use utoipa::ToSchema;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Components, ComponentsBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder};

use crate::api::answer::events::{CompletedEvent, ErrorEvent, PartialImageEvent, ProgressEvent, RestartedEvent};
use crate::api::answer::openai::{ErrorResponse, ImagesResponse, Model, ModelList};
use crate::api::config::{ApiConfig, BuildInfo};
use crate::api::health::{Alive, Ready};
use crate::api::info::Info;
use crate::api::job::ImageJob;

const DESCRIPTION: &str = "The OpenAI Images API, served by latentd. OpenAI's clients work unchanged. Everything \
    else (steps, seeds, guidance, the step cache, jobs) is in additional fields and routes.\n\nEvery route under `/v1` \
    also answers without that prefix, and with a trailing slash.";

/// The document of a server with these settings; `fetches_pictures` is whether edits may name pictures by URL.
pub(crate) fn document(config: &ApiConfig, fetches_pictures: bool) -> OpenApi {
    let info =
        InfoBuilder::new().title("latentd").version(config.build.version).description(Some(DESCRIPTION)).license(Some(
            LicenseBuilder::new().name("MIT OR Apache-2.0").identifier(Some("MIT OR Apache-2.0")).build(),
        ));
    OpenApiBuilder::new()
        .info(info.build())
        .paths(routes::paths())
        .components(Some(components(config, fetches_pictures)))
        .build()
}

fn components(config: &ApiConfig, fetches_pictures: bool) -> Components {
    let mut schemas = Vec::new();
    add::<ImagesResponse>(&mut schemas);
    add::<ErrorResponse>(&mut schemas);
    add::<PartialImageEvent>(&mut schemas);
    add::<ProgressEvent>(&mut schemas);
    add::<RestartedEvent>(&mut schemas);
    add::<CompletedEvent>(&mut schemas);
    add::<ErrorEvent>(&mut schemas);
    add::<ImageJob>(&mut schemas);
    add::<ModelList>(&mut schemas);
    add::<Model>(&mut schemas);
    add::<Alive>(&mut schemas);
    add::<Ready>(&mut schemas);
    add::<Info>(&mut schemas);
    add::<BuildInfo>(&mut schemas);
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("`--api-key`")).build();
    let api_key = ApiKeyValue::with_description("api-key", "The same key, in Azure's header");
    ComponentsBuilder::new()
        .schema("GenerationRequest", bodies::generation(config))
        .schema("EditRequest", bodies::edit_json(config, fetches_pictures))
        .schema("EditForm", bodies::edit_form(config))
        .schema(answers::STREAM, answers::stream_event())
        .schemas_from_iter(schemas)
        .security_scheme(routes::BEARER, SecurityScheme::Http(bearer))
        .security_scheme(routes::API_KEY, SecurityScheme::ApiKey(ApiKey::Header(api_key)))
        .build()
}

type Schemas = Vec<(String, utoipa::openapi::RefOr<utoipa::openapi::Schema>)>;

/// Adds the schema of an answered type, and of the types within it.
fn add<T: ToSchema>(schemas: &mut Schemas) {
    schemas.push((T::name().into(), T::schema()));
    T::schemas(schemas);
}
