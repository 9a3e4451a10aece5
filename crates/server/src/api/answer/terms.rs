//! The facts of an answer that are known before its first picture.

use axum::http::HeaderValue;
use cache::CacheConfig;
use diffusion::{ImageRequest, ImageSize, ModelCard};

use super::metadata;
use super::openai::Usage;
use crate::api::config::ApiConfig;
use crate::api::request::{Delivery, Endpoint, ImageField, ImagesRequest, Output};

/// Most bytes of the `x-ignored-params` header.
const MAX_IGNORED_LEN: usize = 1024;

/// What all pictures of a request share, and how they are delivered.
#[derive(Debug)]
pub(crate) struct AnswerTerms {
    pub(crate) endpoint: Endpoint,
    /// The id of the model.
    pub(crate) model: String,
    /// Size of the pictures.
    pub(crate) size: ImageSize,
    /// Size at which they are generated, which the usage counts. It differs only for a model that was made for certain
    /// sizes.
    pub(crate) generated_size: ImageSize,
    /// Requested steps.
    pub(crate) num_inference_steps: usize,
    /// Evaluations of the transformer: the steps that are taken and reported.
    pub(crate) num_evaluations: usize,
    pub(crate) quality: &'static str,
    pub(crate) output: Output,
    /// One for each picture.
    pub(crate) seeds: Vec<u64>,
    /// The step cache of the pictures, and the blocks of each segment that it divides.
    pub(crate) cache: Option<CacheConfig>,
    pub(crate) num_blocks: Vec<usize>,
    /// Whether the log gets a line for each picture on its step cache.
    pub(crate) cache_summary: bool,
    pub(crate) delivery: Delivery,
    /// Whether the answer is an async job.
    pub(crate) run_async: bool,
    /// Whether steps are reported.
    pub(crate) progress: bool,
    pub(crate) return_timings: bool,
    pub(crate) return_cache_stats: bool,
    pub(crate) safety_identifier: Option<String>,
    /// Names of fields without effect, for a header.
    pub(crate) ignored: Option<HeaderValue>,
    /// Sentences on why some of them have no effect.
    pub(crate) warnings: Vec<String>,
    /// Latent tokens of the input pictures.
    pub(crate) input_image_tokens: usize,
    /// Text embedded in each file, if the request asks for it.
    pub(crate) metadata: Option<Vec<String>>,
    /// Base of the pictures' URLs.
    pub(crate) public_url: String,
}

impl AnswerTerms {
    /// The terms of `asked`, from which `requests` were built for a model with this card.
    pub(crate) fn new(
        asked: &ImagesRequest,
        requests: &[ImageRequest],
        card: &ModelCard,
        config: &ApiConfig,
        public_url: String,
    ) -> Self {
        let first = requests.first().expect("a request is for at least one picture. This is a bug.");
        // A client that follows a job knows this server's events, so they cannot confuse an OpenAI client.
        let progress = asked.run_async || matches!(asked.delivery, Delivery::Stream(options) if options.progress);
        AnswerTerms {
            endpoint: asked.endpoint,
            model: config.model_id().to_owned(),
            size: first.size(),
            generated_size: first.params.size,
            num_inference_steps: first.params.num_inference_steps,
            num_evaluations: first.params.num_evaluations(),
            quality: asked.quality,
            output: asked.output,
            seeds: requests.iter().map(|request| request.params.seed).collect(),
            cache: asked.cache.as_ref().or(config.cache.as_ref()).cloned(),
            num_blocks: card.num_blocks.clone(),
            cache_summary: config.cache_summary,
            delivery: asked.delivery,
            run_async: asked.run_async,
            progress,
            return_timings: asked.return_timings,
            return_cache_stats: asked.return_cache_stats,
            safety_identifier: asked.safety_identifier.clone(),
            ignored: ignored_params(&asked.ignored),
            warnings: asked.warnings.clone(),
            input_image_tokens: first
                .input_images
                .iter()
                .map(|input| card.edit_size.of(input.image.size).image_seq_len())
                .sum(),
            metadata: asked.output.embed_metadata.then(|| metadata::of(requests, config.model_id())),
            public_url,
        }
    }

    /// The usage of `num_images` pictures from a prompt of `prompt_tokens` tokens.
    pub(crate) fn usage(&self, prompt_tokens: usize, num_images: usize) -> Usage {
        Usage::new(prompt_tokens, self.input_image_tokens, self.generated_size.image_seq_len() * num_images)
    }

    /// Whether the answer has URLs instead of files.
    pub(crate) fn answers_with_urls(&self) -> bool {
        self.delivery == Delivery::Json(ImageField::Url)
    }

    /// Steps of all pictures.
    pub(crate) fn all_steps(&self) -> usize {
        self.seeds.len() * self.num_evaluations
    }
}

/// Formats the names of ignored fields for a header. They are escaped, because a client may send any name.
fn ignored_params(names: &[String]) -> Option<HeaderValue> {
    let mut list = String::new();
    for name in names {
        let escaped: String = name.escape_default().take(MAX_IGNORED_LEN).collect();
        if list.len() + escaped.len() > MAX_IGNORED_LEN {
            break;
        }
        let separator = if list.is_empty() { "" } else { ", " };
        list = list + separator + &escaped;
    }
    (!list.is_empty()).then(|| HeaderValue::from_str(&list).expect("escapes are printable ASCII. This is a bug."))
}
