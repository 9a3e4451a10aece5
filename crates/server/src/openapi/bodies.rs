//! The bodies of requests for pictures, field by field. `request::validate` reads them by hand, so that
//! it can name what is wrong; a test holds the two together.

use diffusion::{MAX_GUIDANCE, MAX_IMAGES, MAX_INFERENCE_STEPS, MAX_PROMPT_CHARS};
use scheduler::PRIORITIES;
use serde_json::{Value, json};
use utoipa::openapi::schema::{SchemaType, Type};
use utoipa::openapi::{ArrayBuilder, ObjectBuilder, RefOr, Schema};

use super::schema::{aliased, flag, integer, nullable, number, of, one_of, text};
use crate::config::ServerConfig;
use crate::request::{BACKGROUNDS, FORMATS, MAX_PARTIAL_IMAGES, PREVIEW_METHODS, QUALITIES, RESPONSE_FORMATS};
use crate::request::{MAX_IMAGE_BYTES, MAX_INPUT_IMAGES, MAX_URL_CHARS};

/// A field's name and what it may hold.
type Field = (&'static str, ObjectBuilder);

/// The body of a generation.
pub(super) fn generation(config: &ServerConfig) -> Schema {
    json_body("What to make, and how.", common(config)).into()
}

/// The JSON body of an edit.
pub(super) fn edit_json(config: &ServerConfig) -> Schema {
    let (description, pattern) = match config.image_urls {
        None => ("A `data:` URL of a picture: pictures elsewhere are not fetched.", "^data:"),
        Some(_) => {
            ("The `data:` URL of a picture, or where it is: what the operator allows is fetched.", "^(data|https?):")
        }
    };
    let picture = |object: ObjectBuilder| {
        let url = text(description).max_length(Some(MAX_URL_CHARS)).pattern(Some(pattern));
        object.property("image_url", url).required("image_url")
    };
    let image = picture(ObjectBuilder::new());
    let mask = nullable(picture(of(Type::Object, MASK)).build());
    let description = "The pictures to edit, as many as the model takes. Also read as `image` or `url`.";
    let images = list(description, image.into());
    let body = json_body("What to edit, and how.", common(config));
    body.property("images", images).property("mask", mask).required("images").into()
}

const MASK: &str = "Where the first picture may be changed: a PNG, WebP or GIF file of its size, edited where it is \
    transparent. The answer's `warnings` say how it was used.";

/// The form of an edit. Numbers and flags are written out as text.
pub(super) fn edit_form(config: &ServerConfig) -> Schema {
    let file = text(format!(
        "A PNG, JPEG, WebP or GIF file of at most {MAX_IMAGE_BYTES} bytes, whatever its part's type. Upright as its \
         EXIF says, transparency on white."
    ))
    .content_media_type("application/octet-stream");
    let description = "The pictures to edit, as many as the model takes: a part each, all called `image` or `image[]`.";
    let mask = text(MASK).content_media_type("application/octet-stream");
    let body = of(Type::Object, "What to edit, and how.");
    let body = body.property("image", list(description, file.into())).property("mask", mask);
    let body = common(config).into_iter().fold(body, |body, (name, field)| body.property(name, field));
    body.required("prompt").required("image").into()
}

/// A JSON object of these fields, in which null is the same as absent.
fn json_body(description: &str, fields: Vec<Field>) -> ObjectBuilder {
    let ignored = "Fields that are not listed have no effect; `x-ignored-params` names them.";
    let body = of(Type::Object, format!("{description} {ignored}")).required("prompt");
    fields.into_iter().fold(body, |body, (name, field)| {
        let field = field.build();
        body.property(name, if name == "prompt" { field } else { nullable(field) })
    })
}

fn list(description: &str, item: RefOr<Schema>) -> ArrayBuilder {
    let list = ArrayBuilder::new().items(item).description(Some(description));
    list.min_items(Some(1)).max_items(Some(MAX_INPUT_IMAGES))
}

/// The fields that generations and edits share.
fn common(config: &ServerConfig) -> Vec<Field> {
    [picture(config), sampling(), file(), streaming(), handling(config)].into_iter().flatten().collect()
}

/// What the picture shall be.
fn picture(config: &ServerConfig) -> Vec<Field> {
    let names = config.served_model_names.iter().map(|name| (name.as_str(), ())).collect::<Vec<_>>();
    let seeds = "The noise's seed: it makes the same picture again. Picture i of a request has seed + i. -1, as none, \
         draws one for each picture; the answer has it.";
    let sizes = format!(
        "`WIDTHxHEIGHT` in pixels, at most {} of them; `auto` is the model's default for a generation, and for an \
         edit what the model makes of its pictures: of a mask's picture, or of the first or last one, the shape. Also read as `width` and `height`.",
        config.limits.max_pixels
    );
    let prompt = |description| text(description).max_length(Some(MAX_PROMPT_CHARS));
    vec![
        ("prompt", prompt("What the picture shall show.").min_length(Some(1)).pattern(Some(r"\S"))),
        (
            "negative_prompt",
            prompt(
                "What it shall not show, in place of the model's default, which `/info` has. It counts where guidance makes two passes: a scale of 1 turns them off.",
            ),
        ),
        ("model", one_of("One of the served model's names.", &names).default(first(&names))),
        ("n", integer("Pictures to make.", 1..=MAX_IMAGES).default(Some(1.into()))),
        ("size", aliased(text(sizes).pattern(Some("^(auto|[0-9]+x[0-9]+)$")), &["width", "height"]).default(auto())),
        ("seed", integer(seeds, -1..=i64::MAX).default(Some((-1).into()))),
    ]
}

/// How it is denoised.
fn sampling() -> Vec<Field> {
    let steps = "Denoising steps, in place of those that `quality` stands for. Also read as `steps` or `step`.";
    let quality = "How much work the picture is worth: it picks the steps, unless they are given.";
    let plain = "The weight of models with plain classifier-free guidance, or with guidance as an input: `/info` says \
         which it is. Others ignore it.";
    let true_cfg = "The weight of true classifier-free guidance, in place of the model's default; 1 turns it off. Also read as \
         `cfg_scale` or `cfg`.";
    vec![
        ("quality", one_of(quality, &QUALITIES).default(auto())),
        ("num_inference_steps", aliased(integer(steps, 1..=MAX_INFERENCE_STEPS), &["steps", "step"])),
        ("guidance_scale", number(plain, 0.0..=MAX_GUIDANCE)),
        ("true_cfg_scale", aliased(number(true_cfg, 0.0..=MAX_GUIDANCE), &["cfg_scale", "cfg"])),
    ]
}

/// What file is made of it.
fn file() -> Vec<Field> {
    let format = "Where the picture stands: as base64 in the JSON, behind a URL that needs no key and lives for an hour, \
         or as the whole answer (`file`, for one picture; so does `Accept: image/*`).";
    let metadata = "A PNG says how it was made, prompt and seed included, in a text chunk `parameters`.";
    let opaque: Vec<_> = BACKGROUNDS.into_iter().filter(|(_, can)| *can).collect();
    vec![
        ("response_format", one_of(format, &RESPONSE_FORMATS).default(first(&RESPONSE_FORMATS))),
        ("output_format", one_of("The kind of file.", &FORMATS).default(first(&FORMATS))),
        ("output_compression", integer("JPEG's quality.", 0..=100).default(Some(100.into()))),
        ("embed_metadata", flag(metadata)),
        ("background", one_of("Always opaque: the model has no alpha.", &opaque).default(auto())),
    ]
}

/// What is told while it is made.
fn streaming() -> Vec<Field> {
    let partial = "Previews of each picture, spread over its steps. Only where `stream` or `async` is true.";
    let progress = "An event after every step: which it was, and what the step cache did. OpenAI has no such event: \
         its Python client raises on one where it validates strictly (`_strict_response_validation`).";
    let interval = "In place of `partial_images`: a preview after each so many steps.";
    let method = "How a preview is drawn: by a fit of the latents' channels to colours, which costs next to nothing, or \
         by the VAE, which takes as long as the picture's own decoding.";
    vec![
        ("stream", flag("Answer with server-sent events: previews, progress, pictures.")),
        ("partial_images", integer(partial, 0..=MAX_PARTIAL_IMAGES as i64).default(Some(0.into()))),
        ("preview_interval", of(Type::Integer, interval).minimum(Some(1))),
        ("preview_method", one_of(method, &PREVIEW_METHODS).default(first(&PREVIEW_METHODS))),
        ("stream_progress", flag(progress)),
    ]
}

/// How the request is treated.
fn handling(config: &ServerConfig) -> Vec<Field> {
    let cache = "The request's own step cache: `off`, a preset's name, or an object of settings over the server's.";
    let cache = match config.allow_request_cache_config {
        true => cache.to_owned(),
        false => format!("{cache} Refused: the server was started without `--allow-request-cache-config`."),
    };
    let cache =
        ObjectBuilder::new().schema_type(SchemaType::from_iter([Type::String, Type::Object])).description(Some(cache));
    let mut fields = vec![
        ("async", flag("Answer at once with a job to ask after; so does `Prefer: respond-async`.")),
        ("cache", cache),
        ("return_timings", flag("Say where the time went.")),
        ("return_cache_stats", flag("Say what the step cache computed and reused.")),
        ("user", text("Who asks, by the client's word: of no effect.")),
        ("safety_identifier", text("The same, which the answer repeats.")),
        ("extra_body", of(Type::Object, "More fields, as some clients nest them; the body's own go first.")),
    ];
    if config.priorities {
        let urgency = "Its urgency: what is more urgent goes first, within bounds.";
        fields.push(("priority", integer(urgency, PRIORITIES).default(Some(0.into()))));
    }
    fields
}

fn auto() -> Option<Value> {
    Some(json!("auto"))
}

fn first<T>(choices: &[(&str, T)]) -> Option<Value> {
    choices.first().map(|(word, _)| json!(word))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use axum::body::Body;
    use axum::http::Request;

    use super::super::schema::ALIASES;
    use super::*;
    use crate::request::{self, ASKED, Endpoint};

    /// The names in a body's schema, with those that a field is also read under.
    fn documented(schema: Schema) -> BTreeSet<String> {
        let schema = serde_json::to_value(schema).unwrap();
        let properties = schema["properties"].as_object().unwrap();
        let aliases = properties.values().flat_map(|property| property[ALIASES].as_array().into_iter().flatten());
        let aliases: Vec<_> = aliases.map(|alias| alias.as_str().unwrap().to_owned()).collect();
        properties.keys().cloned().chain(aliases).collect()
    }

    /// The names that a request is read by.
    async fn asked(endpoint: Endpoint, body: Value) -> BTreeSet<String> {
        ASKED.take();
        let request = Request::post("/").header("content-type", "application/json").body(Body::from(body.to_string()));
        request::read(endpoint, request.unwrap(), &config(), &request::UploadMemory::new(usize::MAX), None)
            .await
            .unwrap();
        ASKED.take()
    }

    fn config() -> ServerConfig {
        ServerConfig::new("Fake/Fake-Image")
    }

    fn names(list: &[&str]) -> BTreeSet<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[tokio::test]
    async fn the_fields_of_a_generation_are_those_that_are_read() {
        let asked = asked(Endpoint::Generation, json!({"prompt": "a cat", "stream": true})).await;
        let refused = names(&["image", "images", "mask"]);
        assert_eq!(asked.difference(&refused).cloned().collect::<BTreeSet<_>>(), documented(generation(&config())));
    }

    #[tokio::test]
    async fn the_fields_of_an_edit_are_those_that_are_read() {
        let pixel = "data:image/gif;base64,R0lGODlhAQABAIAAAP///wAAACwAAAAAAQABAAACAkQBADs=";
        let asked = asked(Endpoint::Edit, json!({"prompt": "a cat", "stream": true, "images": [pixel]})).await;
        let refused = names(&["markup"]);
        let aliases = names(&["image", "url"]);
        let fields: BTreeSet<_> = asked.difference(&refused).cloned().collect();
        assert_eq!(fields.difference(&aliases).cloned().collect::<BTreeSet<_>>(), documented(edit_json(&config())));
        let pictures = names(&["images", "url"]);
        assert_eq!(fields.difference(&pictures).cloned().collect::<BTreeSet<_>>(), documented(edit_form(&config())));
    }

    #[test]
    fn bounds_are_those_of_the_settings() {
        let mut config = config();
        config.limits.max_pixels = 1234;
        config.priorities = false;
        let schema = serde_json::to_value(generation(&config)).unwrap();
        let size = &schema["properties"]["size"];
        assert!(size["description"].as_str().unwrap().contains("at most 1234 of them"), "{size}");
        assert_eq!(schema["properties"]["n"]["maximum"], MAX_IMAGES);
        assert_eq!(schema["properties"]["n"]["type"], json!(["integer", "null"]));
        assert_eq!(schema["properties"]["model"]["enum"], json!(["Fake/Fake-Image", null]));
        assert!(schema["properties"].get("priority").is_none());
        assert_eq!(schema["required"], json!(["prompt"]));
    }

    #[test]
    fn pictures_elsewhere_are_taken_where_they_are_fetched() {
        let pattern = |config: &ServerConfig| {
            let schema = serde_json::to_value(edit_json(config)).unwrap();
            schema["properties"]["images"]["items"]["properties"]["image_url"]["pattern"].clone()
        };
        let mut config = config();
        assert_eq!(pattern(&config), "^data:");
        config.image_urls = Some(crate::ImageFetcher::of_this_machine("example.com"));
        assert_eq!(pattern(&config), "^(data|https?):");
    }
}
