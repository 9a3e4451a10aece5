//! What a request takes of a model, before it starts.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use cache::{CacheConfig, SegmentTokens};
use diffusion::{EditSize, ImageRequest, RequestCost};

use crate::dit::Segment;

/// Tells the text tokens of a request's prompt.
pub type TextTokens = Arc<dyn Fn(&str, &ImageRequest) -> TextLength + Send + Sync>;

/// The text tokens of one prompt in a transformer pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextLength {
    /// About.
    pub expected: usize,
    /// At most.
    pub most: usize,
}

/// The sizes that a request's state is made of.
#[derive(Clone)]
pub struct RequestSizes {
    /// The transformer's lists of blocks.
    pub segments: Vec<Segment>,
    /// Width of the streams.
    pub dim: usize,
    /// Channels of a packed token.
    pub token_channels: usize,
    /// Width of a prompt's embeddings.
    pub text_width: usize,
    /// How many text tokens a prompt has.
    pub text_tokens: TextTokens,
    /// Bytes of a number of the text and image streams.
    pub activation_bytes: usize,
}

/// Tells the cost of requests to one model.
#[derive(Clone)]
pub(crate) struct CostModel {
    pub(crate) sizes: RequestSizes,
    pub(crate) edit_size: EditSize,
    /// The cache of requests that bring none.
    pub(crate) cache: Option<CacheConfig>,
}

impl CostModel {
    pub(crate) fn cost(&self, request: &ImageRequest) -> RequestCost {
        let cache = request.extensions.get::<CacheConfig>().or(self.cache.as_ref());
        let cache = cache.filter(|config| !config.never_reuses());
        let uncached = RequestCost::uncached(request);
        let reference_tokens = request.input_images.iter().map(|input| {
            let size = self.edit_size.of(input.image.size);
            size.image_seq_len()
        });
        let reference_tokens: usize = reference_tokens.sum();
        let hidden_tokens = uncached.tokens + reference_tokens;
        let kept =
            cache.map_or(0, |config| self.cache_bytes(config, hidden_tokens, self.most_text(request), uncached.passes));
        RequestCost {
            reference_tokens,
            bytes: (self.latent_bytes(request, reference_tokens) + self.prompt_bytes(request) + kept) as u64,
            least_share: cache.map_or(1.0, |config| self.least_share(config)),
            kind: cache.map_or(0, |config| kind(config, uncached.steps)),
            text_tokens: (self.sizes.text_tokens)(&request.prompt, request).expected,
            ..uncached
        }
    }

    /// Latents before and after a step: those of the last step are held until this one is known to have had
    /// memory enough, and so is the estimate that a preview shows. Pictures to edit, and what a mask keeps, do
    /// not change.
    fn latent_bytes(&self, request: &ImageRequest, reference_tokens: usize) -> usize {
        let own = request.params.size.image_seq_len();
        let moving = if request.previews.is_some() { 4 } else { 2 };
        let kept_by_mask = if request.mask.is_some() { 2 } else { 0 };
        (own * (moving + kept_by_mask) + reference_tokens) * self.sizes.token_channels * size_of::<f32>()
    }

    /// What the cache keeps between two steps, and what one that is computed stores beside it: the old
    /// residuals too are held until the step is known to have had memory enough.
    fn cache_bytes(&self, config: &CacheConfig, hidden_tokens: usize, text_tokens: usize, passes: usize) -> usize {
        let RequestSizes { dim, activation_bytes, .. } = self.sizes;
        let of_segment = |segment: &Segment| match segment.is_dual {
            // Text that nothing behind the middle blocks looks at is not kept.
            true if segment.encoder_is_used || config.bn_compute_blocks > 0 => {
                SegmentTokens { hidden: hidden_tokens, encoder: text_tokens }
            }
            true => SegmentTokens { hidden: hidden_tokens, encoder: 0 },
            false => SegmentTokens { hidden: hidden_tokens + text_tokens, encoder: 0 },
        };
        let segments: Vec<_> = self.sizes.segments.iter().map(of_segment).collect();
        // What the first blocks add, and what the middle blocks add.
        let stored: usize = segments.iter().map(|tokens| 2 * tokens.hidden + tokens.encoder).sum();
        let stored_by_a_step = stored * dim * activation_bytes * passes;
        config.bytes_per_request(&segments, dim, activation_bytes, passes) + stored_by_a_step
    }

    /// The share of the blocks that always run, in every segment.
    fn least_share(&self, config: &CacheConfig) -> f64 {
        let blocks = || self.sizes.segments.iter().map(|segment| segment.num_blocks);
        let always: usize = blocks().map(|blocks| config.always_computed_blocks().min(blocks)).sum();
        always as f64 / blocks().sum::<usize>() as f64
    }

    fn prompt_bytes(&self, request: &ImageRequest) -> usize {
        let all: usize = self.most_text_tokens(request).sum();
        all * self.sizes.text_width * self.sizes.activation_bytes
    }

    /// Text tokens of the longest prompt, at most.
    fn most_text(&self, request: &ImageRequest) -> usize {
        self.most_text_tokens(request).max().unwrap_or(0)
    }

    /// Text tokens of each pass, at most.
    fn most_text_tokens(&self, request: &ImageRequest) -> impl Iterator<Item = usize> {
        let negative = request.negative_prompt.as_deref().filter(|_| request.params.guidance.branches().len() > 1);
        let prompts = [Some(request.prompt.as_str()), negative];
        prompts.into_iter().flatten().map(|prompt| (self.sizes.text_tokens)(prompt, request).most)
    }
}

/// Requests with the same settings and step count reuse alike.
fn kind(config: &CacheConfig, steps: usize) -> u64 {
    let mut hasher = DefaultHasher::new();
    (format!("{config:?}"), steps).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
