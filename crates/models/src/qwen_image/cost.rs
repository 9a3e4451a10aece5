//! What a request takes of Qwen-Image, before it starts.

use std::hash::{DefaultHasher, Hash, Hasher};

use cache::{CacheConfig, SegmentTokens};
use diffusion::{ImageRequest, RequestCost};

use super::config::TransformerConfig;
use super::prompt::{MAX_PROMPT_TOKENS, MAX_SEQUENCE_LENGTH, TRAILING_TOKENS};

/// The sizes that a request's state is made of.
#[derive(Clone, Debug)]
pub(super) struct CostModel {
    pub(super) transformer: TransformerConfig,
    /// Of a number of the text and image streams.
    pub(super) activation_bytes: usize,
    /// The cache of requests that bring none.
    pub(super) cache: Option<CacheConfig>,
}

impl CostModel {
    pub(super) fn cost(&self, request: &ImageRequest) -> RequestCost {
        let cache = request.extensions.get::<CacheConfig>().or(self.cache.as_ref());
        let cache = cache.filter(|config| !config.never_reuses());
        let uncached = RequestCost::uncached(request);
        let (tokens, passes) = (uncached.tokens, uncached.passes);
        // Those of the last step are held until this one is known to have had memory enough, and so is
        // the estimate that a preview shows.
        let latents = if request.previews.is_some() { 4 } else { 2 };
        let latents = latents * tokens * self.transformer.in_channels * size_of::<f32>();
        let kept = cache.map_or(0, |config| self.cache_bytes(config, tokens, passes));
        RequestCost {
            bytes: (latents + self.prompt_bytes(request) + kept) as u64,
            least_share: cache.map_or(1.0, |config| {
                let always = config.always_computed_blocks().min(self.transformer.num_layers);
                always as f64 / self.transformer.num_layers as f64
            }),
            kind: cache.map_or(0, |config| kind(config, uncached.steps)),
            text_tokens: uncached.text_tokens + TRAILING_TOKENS,
            ..uncached
        }
    }

    /// What the cache keeps between two steps, and what one that is computed stores beside it: the old
    /// residuals too are held until the step is known to have had memory enough.
    fn cache_bytes(&self, config: &CacheConfig, tokens: usize, passes: usize) -> usize {
        // The last block's text goes nowhere: it is kept only for last blocks that run after it.
        let encoder = if config.bn_compute_blocks > 0 { MAX_SEQUENCE_LENGTH } else { 0 };
        let segments = [SegmentTokens { hidden: tokens, encoder }];
        let (dim, dtype_bytes) = (self.transformer.dim(), self.activation_bytes);
        let (first_blocks, middle_blocks) = (tokens, tokens + encoder);
        let stored_by_a_step = (first_blocks + middle_blocks) * dim * dtype_bytes * passes;
        config.bytes_per_request(&segments, dim, dtype_bytes, passes) + stored_by_a_step
    }

    /// A prompt of so many bytes has at most as many tokens.
    fn prompt_bytes(&self, request: &ImageRequest) -> usize {
        let negative = request.negative_prompt.as_deref().filter(|_| request.do_true_cfg());
        let tokens = |text: &str| text.len().min(MAX_PROMPT_TOKENS) + TRAILING_TOKENS;
        let all = tokens(&request.prompt) + negative.map_or(0, tokens);
        all * self.transformer.joint_attention_dim * self.activation_bytes
    }
}

/// Requests with the same settings and step count reuse alike.
fn kind(config: &CacheConfig, steps: usize) -> u64 {
    let mut hasher = DefaultHasher::new();
    (format!("{config:?}"), steps).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use diffusion::{Extensions, ImageSize, SamplingParams};

    use super::*;

    const MIB: u64 = 1 << 20;

    fn request(extensions: Extensions) -> ImageRequest {
        ImageRequest {
            prompt: "a".repeat(50),
            negative_prompt: Some(" ".into()),
            params: SamplingParams {
                size: ImageSize { width: 1024, height: 1024 },
                num_inference_steps: 50,
                guidance_scale: None,
                true_cfg_scale: 4.0,
                seed: 0,
            },
            previews: None,
            extensions,
        }
    }

    #[test]
    fn the_cache_outweighs_the_rest_of_a_request() {
        let model = CostModel { transformer: TransformerConfig::default(), activation_bytes: 2, cache: None };
        let uncached = model.cost(&request(Extensions::default()));
        assert_eq!((uncached.tokens, uncached.passes, uncached.steps), (4096, 2, 50));
        assert_eq!((uncached.least_share, uncached.kind), (1.0, 0));
        // Latents before and after a step, each of 1 MiB.
        assert!((2 * MIB..3 * MIB).contains(&uncached.bytes), "{}", uncached.bytes);

        // Two branches, each with two residuals of 24 MiB before and after a step.
        let cached = CostModel { cache: Some(CacheConfig::default()), ..model }.cost(&request(Extensions::default()));
        assert_eq!(cached.bytes - uncached.bytes, 2 * (2 + 2) * 24 * MIB);
        assert_eq!(cached.least_share, 1.0 / 60.0);
    }

    #[test]
    fn a_computed_step_stores_the_same_whatever_is_kept() {
        let model = CostModel { transformer: TransformerConfig::default(), activation_bytes: 2, cache: None };
        let bytes = |config: CacheConfig| {
            let uncached = model.cost(&request(Extensions::default())).bytes;
            let mut extensions = Extensions::default();
            extensions.insert(config);
            (model.cost(&request(extensions)).bytes - uncached) / MIB
        };
        let taylor =
            |taylorseer_order| CacheConfig { enable_taylorseer: true, taylorseer_order, ..CacheConfig::default() };
        // 24 MiB of image tokens; 6 MiB of the 1024 tokens that the text stream may have.
        assert_eq!(bytes(taylor(1)), 2 * ((1 + 2) + 2) * 24);
        assert_eq!(bytes(taylor(2)), 2 * ((1 + 3) + 2) * 24);
        assert_eq!(bytes(CacheConfig { fn_compute_blocks: 8, ..CacheConfig::default() }), 2 * (2 + 2) * 24);
        assert_eq!(bytes(CacheConfig { bn_compute_blocks: 1, ..CacheConfig::default() }), 2 * ((2 + 2) * 24 + 2 * 6));
        assert_eq!(bytes(CacheConfig { bn_compute_blocks: 1, ..taylor(1) }), 2 * ((3 + 2) * 24 + (2 + 1) * 6));
    }

    #[test]
    fn previews_hold_an_estimate_of_the_latents() {
        let model = CostModel { transformer: TransformerConfig::default(), activation_bytes: 2, cache: None };
        let without = request(Extensions::default());
        let times = diffusion::PreviewTimes::Count(1);
        let previews = diffusion::Previews { method: diffusion::PreviewMethod::Latent2Rgb, times };
        let with = ImageRequest { previews: Some(previews), ..without.clone() };
        assert_eq!(model.cost(&with).bytes - model.cost(&without).bytes, 2 * MIB);
    }

    #[test]
    fn a_request_with_its_own_settings_is_of_its_own_kind() {
        let cache = Some(CacheConfig::default());
        let model = CostModel { transformer: TransformerConfig::default(), activation_bytes: 2, cache };
        let kind = |config: CacheConfig| {
            let mut extensions = Extensions::default();
            extensions.insert(config);
            model.cost(&request(extensions)).kind
        };
        assert_eq!(kind(CacheConfig::default()), model.cost(&request(Extensions::default())).kind);
        assert_ne!(kind(CacheConfig { fn_compute_blocks: 2, ..CacheConfig::default() }), kind(CacheConfig::default()));
        assert_eq!(kind(CacheConfig { max_cached_steps: Some(0), ..CacheConfig::default() }), 0, "never reuses");
    }
}
