//! What is known of an answer before its first picture is.

use axum::http::HeaderValue;
use cache::CacheConfig;
use diffusion::{ImageRequest, ImageSize, ModelCard};

use super::metadata;
use super::openai::Usage;
use crate::api::config::ApiConfig;
use crate::api::request::{Delivery, Endpoint, ImageField, ImagesRequest, Output};

/// Most bytes of the `x-ignored-params` header.
const MAX_IGNORED_LEN: usize = 1024;

/// What all pictures of a request have in common, and how they are answered.
#[derive(Debug)]
pub(crate) struct Terms {
    pub(crate) endpoint: Endpoint,
    /// The id of the model.
    pub(crate) model: String,
    /// Of the pictures.
    pub(crate) size: ImageSize,
    /// At which they are made, and what usage counts; the same but for a model that was made for certain sizes.
    pub(crate) generated_size: ImageSize,
    /// That were asked for.
    pub(crate) num_inference_steps: usize,
    /// Evaluations of the transformer: the steps that are taken and told.
    pub(crate) num_evaluations: usize,
    pub(crate) quality: &'static str,
    pub(crate) output: Output,
    /// One a picture.
    pub(crate) seeds: Vec<u64>,
    /// The step cache that the pictures are made with, and the blocks of each segment that it divides.
    pub(crate) cache: Option<CacheConfig>,
    pub(crate) num_blocks: Vec<usize>,
    /// Whether the log has a line a picture on what its cache did.
    pub(crate) cache_summary: bool,
    pub(crate) delivery: Delivery,
    /// Whether the answer is a job to ask after.
    pub(crate) run_async: bool,
    /// Whether each step is told.
    pub(crate) progress: bool,
    pub(crate) return_timings: bool,
    pub(crate) return_cache_stats: bool,
    pub(crate) safety_identifier: Option<String>,
    /// Names of fields without effect, for a header.
    pub(crate) ignored: Option<HeaderValue>,
    /// Why some of them have none, in sentences.
    pub(crate) warnings: Vec<String>,
    /// Latent tokens of the pictures that the request brought.
    pub(crate) input_image_tokens: usize,
    /// What the files say of how they were made, one a picture, if they do.
    pub(crate) metadata: Option<Vec<String>>,
    /// What the URLs of its pictures begin with.
    pub(crate) public_url: String,
}

impl Terms {
    /// Of `asked`, from which `requests` were built for a model with this card.
    pub(crate) fn new(
        asked: &ImagesRequest,
        requests: &[ImageRequest],
        card: &ModelCard,
        config: &ApiConfig,
        public_url: String,
    ) -> Self {
        let first = requests.first().expect("a request is for at least one picture. This is a bug.");
        // Who follows a job reads nothing that a client of OpenAI's could stumble over.
        let progress = asked.run_async || matches!(asked.delivery, Delivery::Stream(options) if options.progress);
        Terms {
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

    /// Of `num_images` pictures from a prompt of so many tokens.
    pub(crate) fn usage(&self, prompt_tokens: usize, num_images: usize) -> Usage {
        Usage::new(prompt_tokens, self.input_image_tokens, self.generated_size.image_seq_len() * num_images)
    }

    /// Whether the answer says where its pictures are, not what.
    pub(crate) fn answers_with_urls(&self) -> bool {
        self.delivery == Delivery::Json(ImageField::Url)
    }

    /// Steps of all pictures together.
    pub(crate) fn all_steps(&self) -> usize {
        self.seeds.len() * self.num_evaluations
    }
}

/// The names of ignored fields, for a header: escaped, since a client may call them anything.
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
