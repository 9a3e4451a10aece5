//! Non-streamed answers: JSON, or the file of the only picture.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use scheduler::Timings;

use super::base64::Base64;
use super::openai::{ImageData, ImagesResponse, StageTimings};
use super::picture::FinishedPicture;
use super::pieces::{Framed, Pieces};
use super::terms::AnswerTerms;
use crate::api::request::Delivery;

/// Most bytes of the `x-warnings` header.
const MAX_WARNINGS_LEN: usize = 2048;
/// Separator of the warnings; none of them contains it.
const BETWEEN_WARNINGS: &str = " | ";

/// The answer with all pictures, in order.
pub(crate) fn body(terms: &AnswerTerms, pictures: &[Arc<FinishedPicture>]) -> Response {
    let position = pictures.iter().map(|picture| picture.position).min().unwrap_or(0);
    let mut response = match (terms.delivery, pictures.first()) {
        (Delivery::File, Some(picture)) => file(terms, picture),
        _ => json(&images_response(terms, pictures)),
    };
    let headers = response.headers_mut();
    let queue_ms = slowest(pictures).queue_ms as u64;
    headers.insert(HeaderName::from_static("x-queue-ms"), HeaderValue::from(queue_ms));
    write_headers(headers, position, terms);
    response
}

/// Writes the headers that are known once a request's jobs are accepted.
pub(crate) fn write_headers(headers: &mut HeaderMap, position: usize, terms: &AnswerTerms) {
    headers.insert(HeaderName::from_static("x-queue-position"), HeaderValue::from(position));
    if let Some(ignored) = &terms.ignored {
        headers.insert(HeaderName::from_static("x-ignored-params"), ignored.clone());
    }
    if terms.generated_size != terms.size {
        let size = HeaderValue::from_str(&terms.generated_size.to_string());
        let size = size.expect("digits and an x are printable ASCII. This is a bug.");
        headers.insert(HeaderName::from_static("x-generated-size"), size);
    }
}

/// A JSON answer.
pub(crate) fn json(value: &impl Framed) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], Body::new(Pieces::of(value))).into_response()
}

fn file(terms: &AnswerTerms, picture: &FinishedPicture) -> Response {
    let media_type = terms.output.format.media_type();
    let mut response = ([(header::CONTENT_TYPE, media_type)], picture.file.clone()).into_response();
    response.headers_mut().insert(HeaderName::from_static("x-seed"), picture.seed.into());
    if !picture.warnings.is_empty() {
        let warnings = in_one_line(&picture.warnings);
        let warnings = HeaderValue::from_str(&warnings).expect("escapes are printable ASCII. This is a bug.");
        response.headers_mut().insert(HeaderName::from_static("x-warnings"), warnings);
    }
    response
}

/// Formats warnings for a header, in printable ASCII.
fn in_one_line(warnings: &[String]) -> String {
    let warnings: Vec<_> = warnings.iter().map(|warning| warning.replace('|', "/")).collect();
    warnings.join(BETWEEN_WARNINGS).escape_default().take(MAX_WARNINGS_LEN).collect()
}

/// The JSON of the answer with all pictures.
pub(crate) fn images_response(terms: &AnswerTerms, pictures: &[Arc<FinishedPicture>]) -> ImagesResponse {
    let prompt_tokens = pictures.iter().map(|picture| picture.prompt_tokens).max().unwrap_or(0);
    let data = pictures.iter().map(|picture| ImageData {
        b64_json: picture.url.is_none().then(|| Base64(picture.file.clone())),
        url: picture.url.clone(),
        seed: picture.seed,
        cache: picture.cache.clone().filter(|_| terms.return_cache_stats),
    });
    let mut warnings = Vec::new();
    for warning in pictures.iter().flat_map(|picture| &picture.warnings) {
        if !warnings.contains(warning) {
            warnings.push(warning.clone());
        }
    }
    ImagesResponse {
        created: pictures.iter().map(|picture| picture.created_at).max().unwrap_or(0),
        model: terms.model.clone(),
        data: data.collect(),
        background: "opaque",
        output_format: terms.output.format.name(),
        quality: terms.quality,
        size: terms.size.to_string(),
        usage: terms.usage(prompt_tokens, pictures.len()),
        timings: terms.return_timings.then(|| slowest(pictures)),
        safety_identifier: terms.safety_identifier.clone(),
        warnings,
    }
}

/// The slowest picture's time in each stage.
pub(crate) fn slowest(pictures: &[Arc<FinishedPicture>]) -> StageTimings {
    let timings: Vec<Timings> = pictures.iter().map(|picture| picture.timings).collect();
    StageTimings::slowest(&timings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_can_be_told_apart_in_one_line() {
        assert_eq!(in_one_line(&["a|b is é".into(), "c".into()]), "a/b is \\u{e9} | c");
        assert_eq!(in_one_line(&["x".repeat(MAX_WARNINGS_LEN + 1)]).len(), MAX_WARNINGS_LEN);
    }
}
