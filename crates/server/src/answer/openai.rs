//! What the API answers: OpenAI's shapes, and our additions to them.
//!
//! Clients ignore keys that they do not know, so additions stand beside OpenAI's own. What a
//! request says is read field by field in [`crate::request::validate`], because it must name the field
//! that is wrong and list the ones that nobody asked for.

use serde::Serialize;
use utoipa::ToSchema;

use super::cache_report::CacheReport;

/// The answer to a generation.
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
    /// The pictures' real size.
    pub(crate) size: String,
    pub(crate) usage: Usage,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timings: Option<StageTimings>,
    /// What was asked but could not be had, in sentences.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) warnings: Vec<String>,
}

/// One picture.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ImageData {
    pub(crate) b64_json: String,
    /// The seed that makes this picture again.
    pub(crate) seed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cache: Option<CacheReport>,
}

/// Tokens, as clients count their costs by.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Usage {
    pub(crate) total_tokens: usize,
    pub(crate) input_tokens: usize,
    pub(crate) output_tokens: usize,
    pub(crate) input_tokens_details: TokenDetails,
    pub(crate) output_tokens_details: TokenDetails,
}

impl Usage {
    /// Of a prompt of `text_tokens` and pictures of `image_tokens` latent tokens together.
    pub(crate) fn generation(text_tokens: usize, image_tokens: usize) -> Self {
        Usage {
            total_tokens: text_tokens + image_tokens,
            input_tokens: text_tokens,
            output_tokens: image_tokens,
            input_tokens_details: TokenDetails { text_tokens, image_tokens: 0 },
            output_tokens_details: TokenDetails { text_tokens: 0, image_tokens },
        }
    }
}

/// Tokens by kind.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct TokenDetails {
    pub(crate) text_tokens: usize,
    pub(crate) image_tokens: usize,
}

/// Where the time went, in milliseconds: of each stage, the slowest picture's.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(crate) struct StageTimings {
    pub(crate) queue_ms: f64,
    pub(crate) text_encoder_ms: f64,
    pub(crate) denoise_ms: f64,
    pub(crate) vae_ms: f64,
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
    /// The id behind an alias, as in vLLM.
    pub(crate) root: String,
    pub(crate) parent: Option<String>,
    pub(crate) task_types: [&'static str; 1],
    pub(crate) max_input_images: usize,
    /// Known once the model is loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) default_size: Option<String>,
}

/// The body of every failure.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ErrorResponse {
    pub(crate) error: ErrorBody,
}

/// All four keys are always there.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    pub(crate) message: String,
    pub(crate) r#type: &'static str,
    pub(crate) param: Option<&'static str>,
    pub(crate) code: &'static str,
}
