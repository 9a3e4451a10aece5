//! From what was typed to what is meant. Pure: the defaults and bounds come from elsewhere.

use cache::CacheConfig;
use diffusion::{ImageSize, InvalidRequest, RequestDraft};
use scheduler::PRIORITIES;
use serde_json::Value;

use super::fields::Fields;
use super::step_cache;
use crate::answer::encode::OutputFormat;
use crate::config::ServerConfig;
use crate::error::ApiError;

/// A generation whose every field has the right type. The bounds that depend on the model are
/// checked when the draft is built.
#[derive(Debug)]
pub(crate) struct Generation {
    pub(crate) draft: RequestDraft,
    pub(crate) output_format: OutputFormat,
    /// JPEG's quality, 0 to 100.
    pub(crate) output_compression: u8,
    /// What the answer says of the quality.
    pub(crate) quality: &'static str,
    pub(crate) return_timings: bool,
    pub(crate) return_cache_stats: bool,
    /// Its urgency, 0 unless it says so.
    pub(crate) priority: i8,
    /// The request's own cache settings.
    pub(crate) cache: Option<CacheConfig>,
    /// Names of fields that were given and have no effect.
    pub(crate) ignored: Vec<String>,
}

/// Reads a generation off `fields`.
pub(crate) fn generation(mut fields: Fields, config: &ServerConfig) -> Result<Generation, ApiError> {
    check_model(&mut fields, &config.served_model_names)?;
    refuse_unsupported(&mut fields)?;
    let mut ignored = Vec::new();
    let (output_format, output_compression) = output(&mut fields, &mut ignored)?;
    let quality = quality(&mut fields, &mut ignored)?;
    let return_timings = fields.boolean("return_timings")?.unwrap_or(false);
    let return_cache_stats = fields.boolean("return_cache_stats")?.unwrap_or(false);
    // Unread, it is listed with the fields that have no effect.
    let priority = if config.priorities { priority(&mut fields)? } else { 0 };
    let cache = cache(&mut fields, config)?;
    // Who asks: of no effect on the picture.
    fields.string("user")?;
    let draft = draft(&mut fields)?;
    ignored.extend(fields.rest());
    Ok(Generation {
        draft,
        output_format,
        output_compression,
        quality,
        return_timings,
        return_cache_stats,
        priority,
        cache,
        ignored,
    })
}

fn check_model(fields: &mut Fields, served_model_names: &[String]) -> Result<(), ApiError> {
    match fields.string("model")? {
        Some(given) if !served_model_names.contains(&given) => {
            let given = given.chars().take(80).collect();
            Err(ApiError::UnknownModel { given, available: served_model_names.to_vec() })
        }
        _ => Ok(()),
    }
}

/// What would change the answer and cannot be had is refused, never ignored.
fn refuse_unsupported(fields: &mut Fields) -> Result<(), ApiError> {
    let unsupported = |field, bound, given: Value| Err(ApiError::Unsupported(InvalidRequest::new(field, bound, given)));
    if fields.boolean("stream")? == Some(true) {
        return unsupported("stream", "be false: this server does not stream yet", Value::Bool(true));
    }
    match fields.one_of("response_format", &[("b64_json", true), ("url", false)])? {
        Some(false) => unsupported("response_format", "be b64_json: this server keeps no files", "url".into()),
        _ => match fields.one_of("background", &[("auto", true), ("opaque", true), ("transparent", false)])? {
            Some(false) => unsupported("background", "be opaque or auto: the model has no alpha", "transparent".into()),
            _ => Ok(()),
        },
    }
}

fn priority(fields: &mut Fields) -> Result<i8, ApiError> {
    let Some(given) = fields.integer("priority")? else { return Ok(0) };
    let priority = i8::try_from(given).ok().filter(|priority| PRIORITIES.contains(priority));
    let bound = || format!("be between {} and {}", PRIORITIES.start(), PRIORITIES.end());
    Ok(priority.ok_or_else(|| InvalidRequest::new("priority", bound(), given))?)
}

fn cache(fields: &mut Fields, config: &ServerConfig) -> Result<Option<CacheConfig>, ApiError> {
    match fields.any("cache") {
        None => Ok(None),
        Some(given) if !config.allow_request_cache_config => {
            let bound = "be absent: the server was not started with --allow-request-cache-config";
            Err(ApiError::Unsupported(InvalidRequest::new("cache", bound, given)))
        }
        Some(given) => step_cache::request_config(given, config.cache.as_ref()).map(Some),
    }
}

const FORMATS: [(&str, OutputFormat); 4] = [
    ("png", OutputFormat::Png),
    ("jpeg", OutputFormat::Jpeg),
    ("jpg", OutputFormat::Jpeg),
    ("webp", OutputFormat::WebP),
];

fn output(fields: &mut Fields, ignored: &mut Vec<String>) -> Result<(OutputFormat, u8), ApiError> {
    let format = fields.one_of("output_format", &FORMATS)?.unwrap_or(OutputFormat::Png);
    let Some(compression) = fields.integer("output_compression")? else { return Ok((format, 100)) };
    let quality = u8::try_from(compression).ok().filter(|quality| *quality <= 100);
    let quality =
        quality.ok_or_else(|| InvalidRequest::new("output_compression", "be between 0 and 100", compression))?;
    if format != OutputFormat::Jpeg {
        ignored.push("output_compression".into());
    }
    Ok((format, quality))
}

/// Each of OpenAI's words, and the one that the answer has for it: never `auto`, which strict
/// clients refuse there.
const QUALITIES: [(&str, &str); 8] = [
    ("auto", "medium"),
    ("low", "low"),
    ("medium", "medium"),
    ("standard", "medium"),
    ("high", "high"),
    ("hd", "high"),
    ("xhigh", "high"),
    ("max", "high"),
];

fn quality(fields: &mut Fields, ignored: &mut Vec<String>) -> Result<&'static str, ApiError> {
    let quality = fields.one_of("quality", &QUALITIES)?;
    if quality.is_some() {
        ignored.push("quality".into());
    }
    Ok(quality.unwrap_or("medium"))
}

fn draft(fields: &mut Fields) -> Result<RequestDraft, ApiError> {
    Ok(RequestDraft {
        prompt: fields.string("prompt")?.ok_or(ApiError::Missing("prompt"))?,
        negative_prompt: fields.string("negative_prompt")?,
        size: size(fields)?,
        n: fields.integer("n")?,
        num_inference_steps: fields.integer("num_inference_steps")?,
        guidance_scale: fields.number("guidance_scale")?,
        true_cfg_scale: true_cfg_scale(fields)?,
        seed: fields.integer("seed")?,
        extensions: Default::default(),
    })
}

/// `WxH`, or `auto` for the model's default.
fn size(fields: &mut Fields) -> Result<Option<ImageSize>, ApiError> {
    match fields.string("size")? {
        None => Ok(None),
        Some(auto) if auto == "auto" => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|()| {
            let bound = "be WIDTHxHEIGHT in pixels, such as 1024x1024, or auto";
            InvalidRequest::new("size", bound, format!("{text:?}")).into()
        }),
    }
}

/// `cfg_scale` is the name in vllm-omni's scripts; given twice, both must agree.
fn true_cfg_scale(fields: &mut Fields) -> Result<Option<f64>, ApiError> {
    let (scale, alias) = (fields.number("true_cfg_scale")?, fields.number("cfg_scale")?);
    match (scale, alias) {
        (Some(scale), Some(alias)) if scale != alias => {
            Err(InvalidRequest::new("cfg_scale", format!("equal true_cfg_scale, {scale}"), alias).into())
        }
        _ => Ok(scale.or(alias)),
    }
}
