//! The API's answers: OpenAI's schemas, and this server's additions.
//!
//! Clients ignore unknown keys, so additions stand beside OpenAI's own. Requests have no such types:
//! [`crate::api::request::validate`] reads them field by field, because it must name the wrong field and list the
//! unused ones.

use std::time::Duration;

use scheduler::Timings;
use serde::Serialize;
use utoipa::ToSchema;

use super::base64::Base64;
use super::cache_report::CacheReport;
use super::pieces::{Framed, Frames};
use crate::api::milliseconds::milliseconds;

/// The answer to a request for pictures.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ImagesResponse {
    /// Seconds since 1970.
    pub(crate) created: u64,
    /// The id of the model that was used.
    pub(crate) model: String,
    pub(crate) data: Vec<ImageData>,
    /// `transparent` or `opaque`.
    pub(crate) background: &'static str,
    pub(crate) output_format: &'static str,
    /// `low`, `medium` or `high`: strict clients refuse `auto` here.
    pub(crate) quality: &'static str,
    /// The pictures' actual size.
    pub(crate) size: String,
    pub(crate) usage: Usage,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timings: Option<StageTimings>,
    /// The client's identifier of its user, from the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) safety_identifier: Option<String>,
    /// Sentences on how the answer differs from the request: options that are not supported, how a mask was used.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) warnings: Vec<String>,
}

/// One picture: its file in base64, or its URL.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ImageData {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(inline)]
    pub(crate) b64_json: Option<Base64>,
    /// Valid for an hour, without a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) url: Option<String>,
    /// The seed that makes this picture again.
    pub(crate) seed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cache: Option<CacheReport>,
}

impl Framed for ImagesResponse {
    fn frame(&self, json: &mut Frames) {
        json.object(|fields| {
            fields.plain("created", &self.created);
            fields.plain("model", &self.model);
            fields.list("data", &self.data);
            fields.plain("background", &self.background);
            fields.plain("output_format", &self.output_format);
            fields.plain("quality", &self.quality);
            fields.plain("size", &self.size);
            fields.plain("usage", &self.usage);
            if let Some(timings) = &self.timings {
                fields.plain("timings", timings);
            }
            if let Some(safety_identifier) = &self.safety_identifier {
                fields.plain("safety_identifier", safety_identifier);
            }
            if !self.warnings.is_empty() {
                fields.plain("warnings", &self.warnings);
            }
        });
    }
}

impl Framed for ImageData {
    fn frame(&self, json: &mut Frames) {
        json.object(|fields| {
            if let Some(file) = &self.b64_json {
                fields.framed("b64_json", file);
            }
            if let Some(url) = &self.url {
                fields.plain("url", url);
            }
            fields.plain("seed", &self.seed);
            if let Some(cache) = &self.cache {
                fields.plain("cache", cache);
            }
        });
    }
}

/// Token counts, by which clients compute costs.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Usage {
    pub(crate) total_tokens: usize,
    pub(crate) input_tokens: usize,
    pub(crate) output_tokens: usize,
    pub(crate) input_tokens_details: TokenDetails,
    pub(crate) output_tokens_details: TokenDetails,
}

impl Usage {
    /// The usage of a prompt, of its input pictures and of the results, in text-encoder tokens and in latent tokens.
    pub(crate) fn new(text_tokens: usize, input_image_tokens: usize, output_image_tokens: usize) -> Self {
        let input_tokens = text_tokens + input_image_tokens;
        Usage {
            total_tokens: input_tokens + output_image_tokens,
            input_tokens,
            output_tokens: output_image_tokens,
            input_tokens_details: TokenDetails { text_tokens, image_tokens: input_image_tokens },
            output_tokens_details: TokenDetails { text_tokens: 0, image_tokens: output_image_tokens },
        }
    }
}

/// Tokens by kind.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct TokenDetails {
    pub(crate) text_tokens: usize,
    pub(crate) image_tokens: usize,
}

/// Time of each stage in milliseconds; of several pictures, the slowest one's.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(crate) struct StageTimings {
    pub(crate) queue_ms: f64,
    pub(crate) text_encoder_ms: f64,
    pub(crate) denoise_ms: f64,
    pub(crate) vae_ms: f64,
}

impl StageTimings {
    /// The slowest picture's time in each stage.
    pub(crate) fn slowest(all: &[Timings]) -> Self {
        let max = |stage: fn(&Timings) -> Duration| milliseconds(all.iter().map(stage).max().unwrap_or_default());
        StageTimings {
            queue_ms: max(|timings| timings.queue),
            text_encoder_ms: max(|timings| timings.encode),
            denoise_ms: max(|timings| timings.denoise),
            vae_ms: max(|timings| timings.decode),
        }
    }
}

/// The list of models.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelList {
    pub(crate) object: &'static str,
    pub(crate) data: Vec<Model>,
}

/// One name of the served model.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Model {
    pub(crate) id: String,
    pub(crate) object: &'static str,
    /// Seconds since 1970.
    pub(crate) created: u64,
    pub(crate) owned_by: &'static str,
    /// The model's id if this is an alias, as in vLLM.
    pub(crate) root: String,
    pub(crate) parent: Option<String>,
    /// `t2i` (text to image), `i2i` (image to image) or both.
    pub(crate) task_types: Option<Vec<&'static str>>,
    /// Fewest pictures of a request: more than 0 if the model only edits.
    pub(crate) min_input_images: Option<usize>,
    /// Most pictures of a request: 0 if the model makes pictures from text only.
    pub(crate) max_input_images: Option<usize>,
    /// Known once the model is loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) default_size: Option<String>,
}

/// The body of every failure.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ErrorResponse {
    pub(crate) error: ErrorBody,
}

/// All four keys are always present.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    pub(crate) message: String,
    pub(crate) r#type: &'static str,
    pub(crate) param: Option<String>,
    pub(crate) code: &'static str,
}

#[cfg(test)]
mod tests {
    use super::super::pieces::Pieces;
    use super::*;

    /// Finds a field that was added to only one of the two.
    #[test]
    fn an_answer_is_framed_as_serde_writes_it() {
        let full = ImagesResponse {
            created: 1,
            model: "a \"model\"".into(),
            data: vec![
                ImageData { b64_json: Some(Base64(vec![7; 1000].into())), url: None, seed: 1, cache: None },
                ImageData { b64_json: None, url: Some("http://pictures/1".into()), seed: 2, cache: None },
            ],
            background: "opaque",
            output_format: "png",
            quality: "low",
            size: "1x1".into(),
            usage: Usage::new(1, 2, 3),
            timings: Some(StageTimings::slowest(&[])),
            safety_identifier: Some("user".into()),
            warnings: vec!["one".into()],
        };
        let bare = ImagesResponse {
            data: Vec::new(),
            timings: None,
            safety_identifier: None,
            warnings: Vec::new(),
            model: String::new(),
            size: String::new(),
            usage: Usage::new(0, 0, 0),
            ..full
        };
        for answer in [&full, &bare] {
            assert_eq!(Pieces::of(answer).text(), serde_json::to_string(answer).unwrap());
        }
    }
}
