//! How the answer is delivered: as JSON, a file, a stream or an async job.

use axum::http::{HeaderMap, HeaderName, header};
use diffusion::{InvalidRequest, PreviewTimes, Previews, WithoutEffect};

use super::asked::{Delivery, ImageField, ResponseFormat, StreamOptions};
use super::given::Fields;
use super::vocabulary as field;
use crate::api::error::ApiError;
use pictures::OutputFormat;

const PREFER: HeaderName = HeaderName::from_static("prefer");

/// The requested delivery.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) delivery: Delivery,
    pub(crate) run_async: bool,
    /// Previews, for clients that read the events of a stream or a job.
    pub(crate) previews: Option<Previews>,
    /// The file format that `Accept` names, if the answer is a file.
    pub(crate) format: Option<OutputFormat>,
}

/// Reads the fields and headers that decide the delivery; `default` is the JSON field of the picture if none is named.
/// `Accept` never selects a stream, because SDKs send `application/json` with one. Fields without effect are added to
/// `idle`.
///
/// # Errors
/// A field has a wrong type or value, or two contradict each other.
pub(crate) fn wanted(
    fields: &mut Fields,
    headers: &HeaderMap,
    default: ImageField,
    idle: &mut Vec<WithoutEffect>,
) -> Result<Wanted, ApiError> {
    let response_format = fields.take(&field::RESPONSE_FORMAT)?;
    let streams = fields.take(&field::STREAM)?.unwrap_or(false);
    let run_async = fields.take(&field::ASYNC)?.unwrap_or(false) || prefers_async(headers);
    let accepted = accepted_file(headers).filter(|_| matches!(response_format, None | Some(ResponseFormat::File)));
    let is_file = response_format == Some(ResponseFormat::File) || accepted.is_some();
    let alone = |name, other| {
        let bound = format!("be false with {other}");
        Err(InvalidRequest::new(name, bound, true).into())
    };
    match (streams, is_file, run_async) {
        (true, true, _) => return alone("stream", "a file (`response_format` or Accept)"),
        (true, _, true) => return alone("stream", "a job (`async` or Prefer)"),
        (_, true, true) => return alone("async", "a file (`response_format` or Accept)"),
        _ => {}
    }
    let previews = previews(fields, streams || run_async, idle)?;
    let progress = fields.take(&field::STREAM_PROGRESS)?;
    if progress == Some(true) && !streams {
        idle.push(WithoutEffect::new("stream_progress", "the answer is not a stream"));
    }
    let delivery = match response_format {
        _ if streams => Delivery::Stream(StreamOptions { progress: progress.unwrap_or(false) }),
        _ if is_file => Delivery::File,
        Some(ResponseFormat::Field(field)) => Delivery::Json(field),
        _ => Delivery::Json(default),
    };
    if streams && response_format == Some(ResponseFormat::Field(ImageField::Url)) {
        idle.push(WithoutEffect::new("response_format", "a stream has its pictures in base64"));
    }
    Ok(Wanted { delivery, run_async, previews, format: accepted.flatten() })
}

/// The requested previews; none if the client reads no events.
fn previews(
    fields: &mut Fields,
    has_events: bool,
    idle: &mut Vec<WithoutEffect>,
) -> Result<Option<Previews>, ApiError> {
    let method = fields.take(&field::PREVIEW_METHOD)?;
    let count = fields.take(&field::PARTIAL_IMAGES)?;
    let interval = fields.take(&field::PREVIEW_INTERVAL)?;
    let whole = |number: i64| usize::try_from(number).expect("it is within its bounds. This is a bug.");
    let times = match (count, interval) {
        (Some(_), Some(interval)) => {
            let bound = "be absent where partial_images is given";
            return Err(InvalidRequest::new("preview_interval", bound, interval).into());
        }
        (None | Some(0), None) => None,
        (Some(count), None) => Some(PreviewTimes::Count(whole(count))),
        (None, Some(interval)) => Some(PreviewTimes::Interval(whole(interval))),
    };
    if !has_events {
        let given = [
            ("preview_method", method.is_some()),
            ("partial_images", count > Some(0)),
            ("preview_interval", interval.is_some()),
        ];
        let given = given.into_iter().filter(|(_, is_given)| *is_given);
        idle.extend(given.map(|(name, _)| WithoutEffect::new(name, "the answer is neither a stream nor a job")));
        return Ok(None);
    }
    if method.is_some() && times.is_none() {
        idle.push(WithoutEffect::new("preview_method", "there are no previews without `partial_images`"));
    }
    Ok(times.map(|times| Previews { method: method.unwrap_or_default(), times }))
}

/// Whether the request has RFC 7240's `respond-async`.
fn prefers_async(headers: &HeaderMap) -> bool {
    let names = items(headers, PREFER).map(|item| item.split([';', '=']).next().unwrap_or_default().trim());
    names.into_iter().any(|name| name.eq_ignore_ascii_case("respond-async"))
}

/// `Some` if `Accept` prefers a file to JSON, with the format if it names a supported one.
fn accepted_file(headers: &HeaderMap) -> Option<Option<OutputFormat>> {
    let (mut json, mut file) = (0.0, None::<(f64, Option<OutputFormat>)>);
    for item in items(headers, header::ACCEPT) {
        let mut parts = item.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
        let weight = parts.find_map(|part| part.strip_prefix("q=")).map_or(Some(1.0), |weight| weight.parse().ok());
        let weight = weight.unwrap_or(0.0);
        let kind = match media_type.as_str() {
            "application/json" | "application/*" | "*/*" => {
                json = f64::max(json, weight);
                continue;
            }
            "image/png" => Some(OutputFormat::Png),
            "image/jpeg" | "image/jpg" => Some(OutputFormat::Jpeg),
            "image/webp" => Some(OutputFormat::WebP),
            "image/*" => None,
            _ => continue,
        };
        if file.is_none_or(|(best, _)| weight > best) {
            file = Some((weight, kind));
        }
    }
    file.filter(|(weight, _)| *weight > json).map(|(_, kind)| kind)
}

/// The list items of a header, over all its lines.
fn items(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use diffusion::PreviewMethod;
    use serde_json::{Value, json};

    use super::*;
    use crate::api::request::json;

    fn headers(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    fn read(value: Value, headers: &HeaderMap) -> Result<Wanted, String> {
        wanted(&mut json::of_value(value), headers, ImageField::B64Json, &mut Vec::new()).map_err(|err| err.to_string())
    }

    /// Fields without effect.
    fn idle(value: Value) -> Vec<&'static str> {
        let mut idle = Vec::new();
        wanted(&mut json::of_value(value), &HeaderMap::new(), ImageField::B64Json, &mut idle).unwrap();
        idle.into_iter().map(|idle| idle.field).collect()
    }

    fn delivery(value: Value) -> Delivery {
        read(value, &HeaderMap::new()).unwrap().delivery
    }

    #[test]
    fn an_image_type_that_is_preferred_to_json_makes_a_file() {
        let file = |accept| accepted_file(&headers(header::ACCEPT, accept));
        for json in [
            "",
            "application/json",
            "*/*",
            "application/json, text/plain, */*",
            "text/event-stream",
            "image/png, */*",
            "application/json, image/*",
            "image/png;q=0.5, application/json;q=0.9",
            "image/png;q=0",
            "image/png;q=high",
            "image/gif",
        ] {
            assert_eq!(file(json), None, "{json}");
        }
        assert_eq!(file("image/png"), Some(Some(OutputFormat::Png)));
        assert_eq!(file("IMAGE/JPEG"), Some(Some(OutputFormat::Jpeg)));
        assert_eq!(file("image/*"), Some(None));
        assert_eq!(file("image/gif, image/png;q=0.5, image/webp, */*;q=0.1"), Some(Some(OutputFormat::WebP)));
    }

    #[test]
    fn the_body_stands_over_accept() {
        let png = headers(header::ACCEPT, "image/png");
        let wanted = read(json!({"response_format": "b64_json"}), &png).unwrap();
        assert_eq!((wanted.delivery, wanted.format), (Delivery::Json(ImageField::B64Json), None));
        assert_eq!(read(json!({}), &png).unwrap().delivery, Delivery::File);
        assert_eq!(delivery(json!({"response_format": "file"})), Delivery::File);
        assert_eq!(delivery(json!({"response_format": "url"})), Delivery::Json(ImageField::Url));
        let events = headers(header::ACCEPT, "text/event-stream");
        assert_eq!(read(json!({}), &events).unwrap().delivery, Delivery::Json(ImageField::B64Json));
    }

    #[test]
    fn a_job_is_asked_for_in_the_body_or_a_header() {
        let run_async = |value, preference| read(value, &headers(PREFER, preference)).unwrap().run_async;
        assert!(run_async(json!({"async": true}), ""));
        for preference in ["respond-async", "Respond-Async, wait=10", "wait=10,respond-async;x=1"] {
            assert!(run_async(json!({}), preference), "{preference}");
        }
        assert!(!run_async(json!({"async": false}), "wait=10, respond-asynchronously"));
    }

    #[test]
    fn a_stream_and_a_job_may_show_pictures_on_the_way() {
        let previews = |mut value: Value| {
            let [of_stream, of_job] = ["stream", "async"].map(|name| {
                let mut value = value.clone();
                value[name] = true.into();
                read(value, &HeaderMap::new()).unwrap().previews
            });
            assert_eq!(of_stream, of_job);
            value["stream"] = false.into();
            assert_eq!(read(value, &HeaderMap::new()).unwrap().previews, None);
            of_stream
        };
        let latent2rgb = |times| Some(Previews { method: PreviewMethod::Latent2Rgb, times });
        assert_eq!(previews(json!({})), None);
        assert_eq!(previews(json!({"partial_images": 0, "preview_method": "vae"})), None);
        assert_eq!(previews(json!({"partial_images": 3})), latent2rgb(PreviewTimes::Count(3)));
        assert_eq!(previews(json!({"preview_interval": 5})), latent2rgb(PreviewTimes::Interval(5)));
        let vae = Previews { method: PreviewMethod::Vae, times: PreviewTimes::Count(1) };
        assert_eq!(previews(json!({"partial_images": 1, "preview_method": "vae"})), Some(vae));
        let progress = json!({"stream": true, "stream_progress": true});
        assert_eq!(delivery(progress), Delivery::Stream(StreamOptions { progress: true }));
    }

    #[test]
    fn what_a_stream_does_not_take_is_said() {
        assert_eq!(idle(json!({"stream": true, "response_format": "url"})), ["response_format"]);
        assert_eq!(idle(json!({"stream": true, "preview_method": "vae"})), ["preview_method"]);
        for all_count in [
            json!({"stream": true, "response_format": "b64_json", "preview_method": "vae", "partial_images": 1}),
            json!({"async": true, "response_format": "url"}),
            json!({"response_format": "url"}),
        ] {
            assert!(idle(all_count).is_empty());
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let png = headers(header::ACCEPT, "image/png");
        for (value, headers, expected) in [
            (json!({"stream": true}), &png, "`stream` must be false with a file"),
            (json!({"stream": true, "response_format": "file"}), &HeaderMap::new(), "`stream` must be false with a f"),
            (json!({"stream": true, "async": true}), &HeaderMap::new(), "`stream` must be false with a job"),
            (json!({"async": true}), &png, "`async` must be false with a file"),
            (
                json!({"stream": true, "partial_images": 4}),
                &HeaderMap::new(),
                "`partial_images` must be between 0 and 3",
            ),
            (
                json!({"stream": true, "partial_images": -1}),
                &HeaderMap::new(),
                "`partial_images` must be between 0 and",
            ),
            (
                json!({"stream": true, "preview_interval": 0}),
                &HeaderMap::new(),
                "`preview_interval` must be at least 1",
            ),
            (
                json!({"stream": true, "preview_interval": 2, "partial_images": 0}),
                &HeaderMap::new(),
                "`preview_interval` must be absent where",
            ),
            (json!({"stream": true, "preview_method": "taesd"}), &HeaderMap::new(), "`preview_method` must be one of"),
            (
                json!({"response_format": "zip"}),
                &HeaderMap::new(),
                "`response_format` must be one of b64_json, url, file",
            ),
        ] {
            let message = read(value, headers).unwrap_err();
            assert!(message.starts_with(expected), "{message}");
        }
    }
}
