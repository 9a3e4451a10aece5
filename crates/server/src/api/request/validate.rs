//! Validation: from given values to what they mean. Pure: defaults and bounds are arguments.

use axum::http::HeaderMap;
use cache::CacheConfig;
use diffusion::{ImageSize, InvalidRequest, InvalidSize, Quality, RequestDraft, WithoutEffect};

use super::asked::{Delivery, Endpoint, ImageField, ImagesRequest, Output};
use super::delivery::{self, Wanted};
use super::given::Fields;
use super::step_cache;
use super::vocabulary as field;
use crate::api::config::ApiConfig;
use crate::api::error::ApiError;
use pictures::OutputFormat;

/// Validates a request for pictures, except for its pictures.
///
/// # Errors
/// The first field with a wrong type, or with a value that no model accepts.
pub(crate) fn images_request(
    endpoint: Endpoint,
    headers: &HeaderMap,
    mut fields: Fields,
    config: &ApiConfig,
) -> Result<ImagesRequest, ApiError> {
    let model = model(&mut fields, &config.served_model_names)?;
    refuse_unsupported(endpoint, &mut fields)?;
    let mut idle = Vec::new();
    let Wanted { delivery, run_async, previews, format } =
        delivery::wanted(&mut fields, headers, default_field(&model), &mut idle)?;
    let output = output(&mut fields, format, &mut idle)?;
    let quality = fields.take(&field::QUALITY)?.unwrap_or_default();
    let return_timings = fields.take(&field::RETURN_TIMINGS)?.unwrap_or(false);
    let return_cache_stats = fields.take(&field::RETURN_CACHE_STATS)?.unwrap_or(false);
    let priority = priority(&mut fields, config)?;
    let cache = cache(&mut fields, config)?;
    // The user's name does not affect the picture.
    fields.take(&field::USER)?;
    let safety_identifier = fields.take(&field::SAFETY_IDENTIFIER)?;
    let draft = RequestDraft { previews, ..draft(&mut fields, quality)? };
    if let (Delivery::File, Some(n @ 2..)) = (delivery, draft.n) {
        return Err(InvalidRequest::new("n", "be 1 where the answer is a file", n).into());
    }
    idle.extend(untold(delivery, return_timings, return_cache_stats, cache.is_some() || config.cache.is_some()));
    let mut asked = ImagesRequest {
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
        ignored: fields.rest()?,
        warnings: Vec::new(),
    };
    idle.into_iter().for_each(|idle| asked.note(idle));
    Ok(asked)
}

/// Fields that ask for a report that the answer has no place for, or that has no contents.
fn untold(
    delivery: Delivery,
    return_timings: bool,
    return_cache_stats: bool,
    has_cache: bool,
) -> impl Iterator<Item = WithoutEffect> {
    let why = |is_told: bool| match (delivery, is_told) {
        (Delivery::File, _) => Some("the answer is a file"),
        (_, false) => Some("there is no step cache"),
        _ => None,
    };
    let timings = why(true).filter(|_| return_timings).map(|why| WithoutEffect::new("return_timings", why));
    let stats = why(has_cache).filter(|_| return_cache_stats).map(|why| WithoutEffect::new("return_cache_stats", why));
    timings.into_iter().chain(stats)
}

fn model(fields: &mut Fields, served_model_names: &[String]) -> Result<Option<String>, ApiError> {
    match fields.take(&field::MODEL)? {
        Some(given) if !served_model_names.contains(&given) => {
            let given = given.chars().take(80).collect();
            Err(ApiError::UnknownModel { given, available: served_model_names.to_vec() })
        }
        model => Ok(model),
    }
}

/// Clients that ask for DALL-E read only the URL, which was its default.
fn default_field(model: &Option<String>) -> ImageField {
    match model.as_deref() {
        Some("dall-e-2" | "dall-e-3") => ImageField::Url,
        _ => ImageField::B64Json,
    }
}

/// Refuses unsupported options that would change the picture: they are never ignored.
fn refuse_unsupported(endpoint: Endpoint, fields: &mut Fields) -> Result<(), ApiError> {
    const EDITS: &str = "be absent: pictures are edited by POST /v1/images/edits";
    let refused: &[(&str, &str)] = match endpoint {
        Endpoint::Edit => &[("markup", "be absent: the model reads no drawings over a picture")],
        Endpoint::Generation => &[("image", EDITS), ("images", EDITS), ("mask", EDITS)],
    };
    for &(name, bound) in refused {
        if let Some(given) = fields.any(name).filter(|given| !given.is_empty()) {
            return Err(ApiError::Unsupported(InvalidRequest::new(name, bound, given)));
        }
    }
    match fields.take(&field::BACKGROUND)? {
        Some(false) => {
            let bound = "be opaque or auto: the model has no alpha";
            Err(ApiError::Unsupported(InvalidRequest::new("background", bound, "\"transparent\"")))
        }
        _ => Ok(()),
    }
}

/// Without priorities the field is not taken, so it is listed among those without effect.
fn priority(fields: &mut Fields, config: &ApiConfig) -> Result<i8, ApiError> {
    let given = if config.priorities { fields.take(&field::PRIORITY)? } else { None };
    Ok(given.map_or(0, |priority| i8::try_from(priority).expect("it is within its bounds. This is a bug.")))
}

fn cache(fields: &mut Fields, config: &ApiConfig) -> Result<Option<CacheConfig>, ApiError> {
    match fields.take(&field::CACHE)? {
        None => Ok(None),
        Some(given) if !config.allow_request_cache_config => {
            let bound = "be absent: the server was not started with --allow-request-cache-config";
            Err(ApiError::Unsupported(InvalidRequest::new("cache", bound, given)))
        }
        Some(given) => step_cache::request_config(given, config.cache.as_ref()).map(Some),
    }
}

/// `accepted` is the format that `Accept` names.
fn output(
    fields: &mut Fields,
    accepted: Option<OutputFormat>,
    idle: &mut Vec<WithoutEffect>,
) -> Result<Output, ApiError> {
    let format = fields.take(&field::OUTPUT_FORMAT)?.or(accepted).unwrap_or(OutputFormat::Png);
    let mut embed_metadata = fields.take(&field::EMBED_METADATA)?.unwrap_or(false);
    if embed_metadata && format != OutputFormat::Png {
        idle.push(WithoutEffect::new("embed_metadata", "only a PNG says how it was made"));
        embed_metadata = false;
    }
    let compression = fields.take(&field::OUTPUT_COMPRESSION)?;
    if compression.is_some() && format != OutputFormat::Jpeg {
        idle.push(WithoutEffect::new("output_compression", "it is JPEG's quality"));
    }
    let compression = u8::try_from(compression.unwrap_or(100)).expect("it is within its bounds. This is a bug.");
    Ok(Output { format, compression, embed_metadata })
}

fn draft(fields: &mut Fields, quality: Quality) -> Result<RequestDraft, ApiError> {
    Ok(RequestDraft {
        prompt: fields.take(&field::PROMPT)?.ok_or(ApiError::Missing("prompt"))?,
        negative_prompt: fields.take(&field::NEGATIVE_PROMPT)?,
        size: size(fields)?,
        n: fields.take(&field::N)?,
        num_inference_steps: fields.take(&field::NUM_INFERENCE_STEPS)?,
        sampler: fields.take(&field::SAMPLER)?,
        quality,
        guidance_scale: fields.take(&field::GUIDANCE_SCALE)?,
        true_cfg_scale: fields.take(&field::TRUE_CFG_SCALE)?,
        seed: fields.take(&field::SEED)?,
        ..RequestDraft::default()
    })
}

/// `WxH`, `width` and `height`, or `auto` for the model's default.
fn size(fields: &mut Fields) -> Result<Option<ImageSize>, ApiError> {
    let size: Option<ImageSize> = match fields.take(&field::SIZE)? {
        None => None,
        Some(auto) if auto == "auto" => None,
        Some(text) => Some(text.parse().map_err(|err: InvalidSize| {
            let or = if err == InvalidSize::Form { ", or auto" } else { "" };
            InvalidRequest::new("size", format!("{err}{or}"), format!("{text:?}"))
        })?),
    };
    let sides = match (side(fields.take(&field::WIDTH)?), side(fields.take(&field::HEIGHT)?)) {
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

fn side(given: Option<i64>) -> Option<usize> {
    given.map(|side| usize::try_from(side).expect("it is within its bounds. This is a bug."))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::request::json;

    fn read(value: Value) -> Result<ImagesRequest, String> {
        let Value::Object(mut object) = value else { panic!("{value}") };
        object.insert("prompt".into(), "a cat".into());
        let mut config = ApiConfig::new("a/model");
        config.served_model_names.extend(["dall-e-2", "dall-e-3", "gpt-image-1"].map(String::from));
        let fields = json::of_value(Value::Object(object));
        let asked = images_request(Endpoint::Generation, &HeaderMap::new(), fields, &config);
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
    fn what_the_answer_cannot_tell_is_said() {
        let told = |value| read(value).unwrap().warnings.join(" ");
        assert_eq!(told(json!({"return_timings": true, "stream": true})), "");
        let file = json!({"return_timings": true, "return_cache_stats": true, "response_format": "file"});
        let expected = "`return_timings` has no effect: the answer is a file. `return_cache_stats` has no effect: the \
            answer is a file.";
        assert_eq!(told(file), expected);
        let stats = read(json!({"return_cache_stats": true, "style": "vivid"})).unwrap();
        assert_eq!(stats.warnings, ["`return_cache_stats` has no effect: there is no step cache."]);
        assert_eq!(stats.ignored, ["style", "return_cache_stats"]);
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
    fn a_sampler_goes_by_its_name() {
        let sampler = |value| read(value).map(|asked| asked.draft.sampler);
        assert_eq!(sampler(json!({})), Ok(None), "the server's");
        for (name, known) in diffusion::Sampler::NAMED {
            assert_eq!(sampler(json!({"sampler": name})), Ok(Some(known)));
        }
        let expected = "`sampler` must be one of euler, heun, dpmpp_2m, unipc. Given: \"ddim\"";
        assert_eq!(sampler(json!({"sampler": "ddim"})), Err(expected.into()));
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
