//! Request bodies in the API description: the fields of the request's vocabulary, changed by the server's settings, and
//! the pictures, which differ between a form and JSON.

use serde_json::json;
use utoipa::openapi::schema::Type;
use utoipa::openapi::{ArrayBuilder, Object, ObjectBuilder, RefOr, Schema};

use super::schema::{nullable, of, text};
use crate::api::config::ApiConfig;
use crate::api::request::{FIELDS, MAX_IMAGE_BYTES, MAX_INPUT_IMAGES, MAX_URL_CHARS, listed};

/// A field's name and schema.
type Field = (&'static str, Object);

/// The body of a generation.
pub(super) fn generation(config: &ApiConfig) -> Schema {
    json_body("What to make, and how.", common(config)).into()
}

/// The JSON body of an edit.
pub(super) fn edit_json(config: &ApiConfig, fetches_pictures: bool) -> Schema {
    let (description, pattern) = match fetches_pictures {
        false => ("A `data:` URL of a picture: this server fetches no remote pictures.", "^data:"),
        true => ("The `data:` URL of a picture, or a remote URL that the operator allows.", "^(data|https?):"),
    };
    let picture = |object: ObjectBuilder| {
        let url = text(description).max_length(Some(MAX_URL_CHARS)).pattern(Some(pattern));
        object.property("image_url", url).required("image_url")
    };
    let image = picture(ObjectBuilder::new());
    let mask = nullable(picture(of(Type::Object, MASK)).build());
    let description = "The pictures to edit, as many as the model accepts. Also accepted as `image` or `url`.";
    let images = list(description, image.into());
    let body = json_body("What to edit, and how.", common(config));
    body.property("images", images).property("mask", mask).required("images").into()
}

const MASK: &str = "Where the first picture may change: a PNG, WebP or GIF file of its size, transparent where the \
    picture is edited. The answer's `warnings` say how it was used.";

/// The form of an edit. Numbers and flags are written as text.
pub(super) fn edit_form(config: &ApiConfig) -> Schema {
    let file = text(format!(
        "A PNG, JPEG, WebP or GIF file of at most {MAX_IMAGE_BYTES} bytes, whatever its part's type. Its EXIF \
         orientation is applied, and transparency becomes white."
    ))
    .content_media_type("application/octet-stream");
    let description = "The pictures to edit, as many as the model accepts: one part each, named `image` or `image[]`.";
    let mask = text(MASK).content_media_type("application/octet-stream");
    let body = of(Type::Object, "What to edit, and how.");
    let body = body.property("image", list(description, file.into())).property("mask", mask);
    let body = common(config).into_iter().fold(body, |body, (name, field)| body.property(name, field));
    body.required("prompt").required("image").into()
}

/// A JSON object of these fields; null is the same as absent.
fn json_body(description: &str, fields: Vec<Field>) -> ObjectBuilder {
    let ignored = "Fields that are not listed have no effect; `x-ignored-params` names them.";
    let body = of(Type::Object, format!("{description} {ignored}")).required("prompt");
    fields
        .into_iter()
        .fold(body, |body, (name, field)| body.property(name, if name == "prompt" { field } else { nullable(field) }))
}

fn list(description: &str, item: RefOr<Schema>) -> ArrayBuilder {
    let list = ArrayBuilder::new().items(item).description(Some(description));
    list.min_items(Some(1)).max_items(Some(MAX_INPUT_IMAGES))
}

/// Fields that generations and edits share.
fn common(config: &ApiConfig) -> Vec<Field> {
    let fields = FIELDS.iter().filter_map(|field| field.documented());
    let fields = fields.filter(|(name, _)| config.priorities || *name != "priority");
    fields.map(|(name, schema)| (name, configured(name, schema.build(), config))).collect()
}

/// Changes a field's schema by the server's settings.
fn configured(name: &str, mut field: Object, config: &ApiConfig) -> Object {
    match name {
        "model" => {
            field.default = config.served_model_names.first().map(|name| json!(name));
            field.enum_values = Some(config.served_model_names.iter().map(|name| json!(name)).collect());
        }
        "size" => {
            let about = field.description.unwrap_or_default();
            let most = config.limits.max_pixels;
            let most = most.map_or("as many as the model accepts".into(), |most| format!("at most {most} of them"));
            field.description = Some(format!("`WIDTHxHEIGHT` in pixels, {most}; {about}"));
            field.extensions = Some(listed(&["width", "height"]));
        }
        "cache" if !config.allow_request_cache_config => {
            let about = field.description.unwrap_or_default();
            let refused = "Refused: the server was started without `--allow-request-cache-config`.";
            field.description = Some(format!("{about} {refused}"));
        }
        // `transparent` is parsed only to explain why it is refused.
        "background" => field.enum_values.iter_mut().for_each(|words| words.retain(|word| word != "transparent")),
        _ => {}
    }
    field
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use diffusion::MAX_IMAGES;
    use serde_json::Value;

    use super::*;
    use crate::api::bounds::Purpose;
    use crate::api::request::{ALIASES, Endpoint};
    use crate::uploads::{self, MemoryLedger, UploadConfig};

    /// The names in a body's schema, aliases included.
    fn documented(schema: Schema) -> Vec<String> {
        let schema = serde_json::to_value(schema).unwrap();
        let properties = schema["properties"].as_object().unwrap();
        let aliases = properties.values().flat_map(|property| property[ALIASES].as_array().into_iter().flatten());
        let aliases: Vec<_> = aliases.map(|alias| alias.as_str().unwrap().to_owned()).collect();
        properties.keys().cloned().chain(aliases).collect()
    }

    fn config() -> ApiConfig {
        let mut config = ApiConfig::new("Fake/Fake-Image");
        config.allow_request_cache_config = true;
        config
    }

    /// The field and message of the error for a body.
    async fn refused(endpoint: Endpoint, body: &Value) -> (Option<String>, String) {
        let request = Request::post("/").header("content-type", "application/json").body(Body::from(body.to_string()));
        let memory = MemoryLedger::of(Purpose::Uploads, usize::MAX);
        let read = uploads::read(endpoint, request.unwrap(), &config(), &UploadConfig::default(), &memory, None).await;
        let error = read.expect_err(&body.to_string()).body();
        (error.param, error.message)
    }

    #[tokio::test]
    async fn every_field_that_is_described_is_read() {
        let pixel = "data:image/gif;base64,R0lGODlhAQABAIAAAP///wAAACwAAAAAAQABAAACAkQBADs=";
        for (endpoint, schema) in
            [(Endpoint::Generation, generation(&config())), (Endpoint::Edit, edit_json(&config(), false))]
        {
            let names = documented(schema);
            assert!(names.len() > 25, "{names:?}");
            for name in names {
                let mut body = json!({"prompt": "a cat", "stream": true, "images": [pixel]});
                if endpoint == Endpoint::Generation {
                    body["images"].take();
                }
                body[&name] = json!([[7]]);
                let (param, message) = refused(endpoint, &body).await;
                assert_eq!(param.as_deref(), Some(name.as_str()), "{message}");
                assert!(message.ends_with("Given: [[7]]") || message.ends_with("Given: [7]"), "{message}");
            }
        }
    }

    #[test]
    fn a_form_has_the_fields_of_json() {
        let mut names = [edit_json(&config(), false), edit_form(&config())].map(documented);
        names[0].retain(|name| name != "images");
        names[1].retain(|name| name != "image");
        names.iter_mut().for_each(|names| names.sort_unstable());
        assert_eq!(names[0], names[1]);
    }

    #[test]
    fn bounds_are_those_of_the_settings() {
        let mut config = config();
        config.limits.max_pixels = Some(1234);
        config.priorities = false;
        let schema = serde_json::to_value(generation(&config)).unwrap();
        let size = &schema["properties"]["size"];
        assert!(size["description"].as_str().unwrap().contains("at most 1234 of them"), "{size}");
        assert_eq!(schema["properties"]["n"]["maximum"], MAX_IMAGES);
        assert_eq!(schema["properties"]["n"]["type"], json!(["integer", "null"]));
        assert_eq!(schema["properties"]["model"]["enum"], json!(["Fake/Fake-Image", null]));
        assert!(schema["properties"].get("priority").is_none());
        assert_eq!(schema["required"], json!(["prompt"]));
        assert_eq!(schema["properties"]["background"]["enum"], json!(["auto", "opaque", null]));
    }

    #[test]
    fn pictures_elsewhere_are_taken_where_they_are_fetched() {
        let pattern = |fetches_pictures| {
            let schema = serde_json::to_value(edit_json(&config(), fetches_pictures)).unwrap();
            schema["properties"]["images"]["items"]["properties"]["image_url"]["pattern"].clone()
        };
        assert_eq!(pattern(false), "^data:");
        assert_eq!(pattern(true), "^(data|https?):");
    }
}
