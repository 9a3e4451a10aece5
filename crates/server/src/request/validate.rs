//! From what was typed to what is meant. Pure: the defaults and bounds come from elsewhere.

use axum::http::HeaderMap;
use cache::CacheConfig;
use diffusion::{ImageSize, InvalidRequest, Quality, RequestDraft};
use scheduler::PRIORITIES;
use serde_json::Value;

use super::delivery::{self, Wanted};
use super::fields::Fields;
use super::{Delivery, Endpoint, ImageField, ImagesRequest, Output, step_cache};
use crate::answer::encode::OutputFormat;
use crate::config::ServerConfig;
use crate::error::ApiError;

/// Reads a request for pictures off `fields`, but for the pictures that it brings; `ignored` are
/// fields that were dropped already.
///
/// # Errors
/// The first field of a wrong type, or with a value that no model takes.
pub(crate) fn images_request(
    endpoint: Endpoint,
    headers: &HeaderMap,
    mut fields: Fields,
    mut ignored: Vec<String>,
    config: &ServerConfig,
) -> Result<ImagesRequest, ApiError> {
    let model = model(&mut fields, &config.served_model_names)?;
    refuse_unsupported(endpoint, &mut fields)?;
    let Wanted { delivery, run_async, previews, format } =
        delivery::wanted(&mut fields, headers, default_field(&model))?;
    let output = output(&mut fields, format, &mut ignored)?;
    let quality = fields.one_of("quality", &QUALITIES)?.unwrap_or_default();
    let return_timings = fields.flag("return_timings")?;
    let return_cache_stats = fields.flag("return_cache_stats")?;
    // Unread, it is listed with the fields that have no effect.
    let priority = if config.priorities { priority(&mut fields)? } else { 0 };
    let cache = cache(&mut fields, config)?;
    // Who asks: of no effect on the picture.
    fields.string("user")?;
    let safety_identifier = fields.string("safety_identifier")?;
    let draft = RequestDraft { previews, ..draft(&mut fields, quality)? };
    if let (Delivery::File, Some(n @ 2..)) = (delivery, draft.n) {
        return Err(InvalidRequest::new("n", "be 1 where the answer is a file", n).into());
    }
    ignored.extend(fields.rest()?);
    Ok(ImagesRequest {
        endpoint,
        draft,
        output,
        quality: quality.name(),
        delivery,
        run_async,
        return_timings,
        return_cache_stats,
        priority,
        cache,
        safety_identifier,
        ignored,
    })
}

fn model(fields: &mut Fields, served_model_names: &[String]) -> Result<Option<String>, ApiError> {
    match fields.word("model")? {
        Some(given) if !served_model_names.contains(&given) => {
            let given = given.chars().take(80).collect();
            Err(ApiError::UnknownModel { given, available: served_model_names.to_vec() })
        }
        model => Ok(model),
    }
}

/// Clients that ask for DALL-E read nothing but the URL, which was its default.
fn default_field(model: &Option<String>) -> ImageField {
    match model.as_deref() {
        Some("dall-e-2" | "dall-e-3") => ImageField::Url,
        _ => ImageField::B64Json,
    }
}

/// What would change the picture and cannot be had is refused, never ignored.
fn refuse_unsupported(endpoint: Endpoint, fields: &mut Fields) -> Result<(), ApiError> {
    const EDITS: &str = "be absent: pictures are edited by POST /v1/images/edits";
    let refused: &[(&str, &str)] = match endpoint {
        Endpoint::Edit => &[("markup", "be absent: the model reads no drawings over a picture")],
        Endpoint::Generation => &[("image", EDITS), ("images", EDITS), ("mask", EDITS)],
    };
    for &(name, bound) in refused {
        if let Some(given) = fields.any(name).filter(|given| !is_empty(given)) {
            return Err(ApiError::Unsupported(InvalidRequest::new(name, bound, given)));
        }
    }
    match fields.one_of("background", &BACKGROUNDS)? {
        Some(false) => {
            let bound = "be opaque or auto: the model has no alpha";
            Err(ApiError::Unsupported(InvalidRequest::new("background", bound, "\"transparent\"")))
        }
        _ => Ok(()),
    }
}

/// OpenAI's words, and whether the model can make such a picture.
pub(crate) const BACKGROUNDS: [(&str, bool); 3] = [("auto", true), ("opaque", true), ("transparent", false)];

fn is_empty(value: &Value) -> bool {
    value.as_str() == Some("") || value.as_array().is_some_and(Vec::is_empty)
}

fn priority(fields: &mut Fields) -> Result<i8, ApiError> {
    let Some(given) = fields.integer("priority")? else { return Ok(0) };
    let priority = i8::try_from(given).ok().filter(|priority| PRIORITIES.contains(priority));
    let bound = || format!("be between {} and {}", PRIORITIES.start(), PRIORITIES.end());
    Ok(priority.ok_or_else(|| InvalidRequest::new("priority", bound(), given))?)
}

fn cache(fields: &mut Fields, config: &ServerConfig) -> Result<Option<CacheConfig>, ApiError> {
    match fields.structure("cache") {
        None => Ok(None),
        Some(given) if !config.allow_request_cache_config => {
            let bound = "be absent: the server was not started with --allow-request-cache-config";
            Err(ApiError::Unsupported(InvalidRequest::new("cache", bound, given)))
        }
        Some(given) => step_cache::request_config(given, config.cache.as_ref()).map(Some),
    }
}

pub(crate) const FORMATS: [(&str, OutputFormat); 4] = [
    ("png", OutputFormat::Png),
    ("jpeg", OutputFormat::Jpeg),
    ("jpg", OutputFormat::Jpeg),
    ("webp", OutputFormat::WebP),
];

/// `accepted` is the format that `Accept` names.
fn output(fields: &mut Fields, accepted: Option<OutputFormat>, ignored: &mut Vec<String>) -> Result<Output, ApiError> {
    let format = fields.one_of("output_format", &FORMATS)?.or(accepted).unwrap_or(OutputFormat::Png);
    let mut embed_metadata = fields.flag("embed_metadata")?;
    if embed_metadata && format != OutputFormat::Png {
        ignored.push("embed_metadata".into());
        embed_metadata = false;
    }
    let Some(compression) = fields.integer("output_compression")? else {
        return Ok(Output { format, compression: 100, embed_metadata });
    };
    let checked = u8::try_from(compression).ok().filter(|quality| *quality <= 100);
    let compression =
        checked.ok_or_else(|| InvalidRequest::new("output_compression", "be between 0 and 100", compression))?;
    if format != OutputFormat::Jpeg {
        ignored.push("output_compression".into());
    }
    Ok(Output { format, compression, embed_metadata })
}

/// Each of OpenAI's words, and what it stands for.
pub(crate) const QUALITIES: [(&str, Quality); 8] = [
    ("auto", Quality::Medium),
    ("low", Quality::Low),
    ("medium", Quality::Medium),
    ("standard", Quality::Medium),
    ("high", Quality::High),
    ("hd", Quality::High),
    ("xhigh", Quality::High),
    ("max", Quality::High),
];

/// `steps`, `step` and `cfg` are the names of other servers, `cfg_scale` that of vllm-omni's scripts.
fn draft(fields: &mut Fields, quality: Quality) -> Result<RequestDraft, ApiError> {
    Ok(RequestDraft {
        prompt: fields.string("prompt")?.ok_or(ApiError::Missing("prompt"))?,
        negative_prompt: fields.string("negative_prompt")?,
        size: size(fields)?,
        n: fields.integer("n")?,
        num_inference_steps: fields.aliased(&["num_inference_steps", "steps", "step"], Fields::integer)?,
        quality,
        guidance_scale: fields.number("guidance_scale")?,
        true_cfg_scale: fields.aliased(&["true_cfg_scale", "cfg_scale", "cfg"], Fields::number)?,
        seed: fields.integer("seed")?,
        ..RequestDraft::default()
    })
}

/// `WxH`, `width` and `height`, or `auto` for the model's default.
fn size(fields: &mut Fields) -> Result<Option<ImageSize>, ApiError> {
    let size: Option<ImageSize> = match fields.word("size")? {
        None => None,
        Some(auto) if auto == "auto" => None,
        Some(text) => Some(text.parse().map_err(|()| {
            let bound = "be WIDTHxHEIGHT in pixels, such as 1024x1024, or auto";
            InvalidRequest::new("size", bound, format!("{text:?}"))
        })?),
    };
    let sides = match (side(fields, "width")?, side(fields, "height")?) {
        (None, None) => return Ok(size),
        (Some(width), Some(height)) => ImageSize { width, height },
        (Some(_), None) => return Err(ApiError::Missing("height")),
        (None, Some(_)) => return Err(ApiError::Missing("width")),
    };
    match size {
        Some(size) if size != sides => {
            Err(InvalidRequest::new("size", format!("equal width and height, {sides}"), size).into())
        }
        _ => Ok(Some(sides)),
    }
}

fn side(fields: &mut Fields, name: &'static str) -> Result<Option<usize>, ApiError> {
    let Some(given) = fields.integer(name)? else { return Ok(None) };
    let side = usize::try_from(given).ok().filter(|side| *side > 0);
    Ok(Some(side.ok_or_else(|| InvalidRequest::new(name, "be at least 1", given))?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> Result<ImagesRequest, String> {
        let Value::Object(mut object) = value else { panic!("{value}") };
        object.insert("prompt".into(), "a cat".into());
        let mut config = ServerConfig::new("a/model");
        config.served_model_names.extend(["dall-e-2", "dall-e-3", "gpt-image-1"].map(String::from));
        let fields = Fields::typed(object);
        let asked = images_request(Endpoint::Generation, &HeaderMap::new(), fields, Vec::new(), &config);
        asked.map_err(|err| err.to_string())
    }

    #[test]
    fn a_size_has_three_spellings() {
        let size = |value| read(value).map(|asked| asked.draft.size.map(|size| size.to_string()));
        let landscape = Ok(Some("64x48".into()));
        assert_eq!(size(json!({"size": "64x48"})), landscape);
        assert_eq!(size(json!({"width": 64, "height": 48})), landscape);
        assert_eq!(size(json!({"width": 64, "height": 48, "size": "auto"})), landscape);
        assert_eq!(size(json!({"width": 64, "height": 48, "size": "64x48"})), landscape);
        assert_eq!(size(json!({"size": "auto"})), Ok(None));
        for (value, expected) in [
            (json!({"width": 64}), "Missing required parameter: `height`"),
            (json!({"height": 64}), "Missing required parameter: `width`"),
            (json!({"width": 0, "height": 1}), "`width` must be at least 1. Given: 0"),
            (json!({"width": 1, "height": -1}), "`height` must be at least 1. Given: -1"),
            (
                json!({"width": 64, "height": 48, "size": "48x64"}),
                "`size` must equal width and height, 64x48. Given: 48x64",
            ),
        ] {
            assert_eq!(size(value), Err(expected.into()));
        }
    }

    #[test]
    fn steps_and_guidance_have_other_names() {
        let draft = |value| read(value).unwrap().draft;
        for name in ["num_inference_steps", "steps", "step"] {
            assert_eq!(draft(json!({name: 30})).num_inference_steps, Some(30), "{name}");
        }
        for name in ["true_cfg_scale", "cfg_scale", "cfg"] {
            assert_eq!(draft(json!({name: 2})).true_cfg_scale, Some(2.0), "{name}");
        }
        assert!(read(json!({"steps": 3, "num_inference_steps": 4})).is_err());
        assert!(read(json!({"cfg": 3, "true_cfg_scale": 4})).is_err());
    }

    #[test]
    fn every_quality_is_one_of_three() {
        for (word, quality) in
            [("auto", "medium"), ("standard", "medium"), ("low", "low"), ("hd", "high"), ("max", "high")]
        {
            let asked = read(json!({"quality": word})).unwrap();
            assert_eq!((asked.quality, asked.draft.quality.name()), (quality, quality), "{word}");
        }
        assert_eq!(read(json!({})).unwrap().quality, "medium");
    }

    #[test]
    fn who_asks_for_dall_e_reads_urls() {
        let delivery = |value| read(value).unwrap().delivery;
        assert_eq!(delivery(json!({"model": "dall-e-2"})), Delivery::Json(ImageField::Url));
        assert_eq!(delivery(json!({"model": "dall-e-3"})), Delivery::Json(ImageField::Url));
        let explicit = json!({"model": "dall-e-3", "response_format": "b64_json"});
        assert_eq!(delivery(explicit), Delivery::Json(ImageField::B64Json));
        for model in ["gpt-image-1", "a/model"] {
            assert_eq!(delivery(json!({"model": model})), Delivery::Json(ImageField::B64Json));
        }
    }

    #[test]
    fn a_file_holds_one_picture() {
        let file = |n: Value| read(json!({"response_format": "file", "n": n})).map(|asked| asked.delivery);
        assert_eq!(file(json!(1)), Ok(Delivery::File));
        assert_eq!(file(Value::Null), Ok(Delivery::File));
        assert_eq!(file(json!(2)), Err("`n` must be 1 where the answer is a file. Given: 2".into()));
    }

    #[test]
    fn previews_go_with_the_draft() {
        let draft = |value| read(value).unwrap().draft;
        assert!(draft(json!({"stream": true, "partial_images": 2})).previews.is_some());
        let still = read(json!({"partial_images": 2, "stream_progress": true})).unwrap();
        assert_eq!((still.draft.previews, still.ignored.join(" ").as_str()), (None, "partial_images stream_progress"));
    }
}
