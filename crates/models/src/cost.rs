//! Estimates the cost of a request before it starts.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use cache::{Aim, CacheConfig, Plans, SegmentTokens, StepMask, known_steps};
use diffusion::{
    CfgBranch, EditSize, ImageRequest, ImageSize, KnownSteps, PreviewMethod, RequestCost, RequestMemory, Sampler, Work,
};

use crate::dit::BlockList;
use crate::flops::{ModelFlops, resizing, sketch};
use crate::peaks::Peaks;
use crate::planned::PlannedRun;
use crate::solver::Solver;
use crate::tiling::{Tiling, VaeTiling};
use crate::vae_half::VaeHalf;

/// Returns the number of text tokens of a prompt in a request.
pub type TextTokens = Arc<dyn Fn(&str, &ImageRequest) -> TextLength + Send + Sync>;

/// Returns the number of patches that the text encoder sees of a picture of this size.
pub type PatchesOf = Arc<dyn Fn(ImageSize) -> usize + Send + Sync>;

/// Number of text tokens of a prompt in a transformer pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextLength {
    /// Estimate.
    pub expected: usize,
    /// Upper bound.
    pub most: usize,
}

/// The sizes from which a request's memory and work are estimated.
#[derive(Clone)]
pub struct RequestSizes {
    /// The transformer's lists of blocks.
    pub segments: Vec<BlockList>,
    /// Width of the streams.
    pub dim: usize,
    /// Channels of a packed token.
    pub token_channels: usize,
    /// Width of a prompt's embeddings.
    pub text_width: usize,
    /// Counts the text tokens of a prompt.
    pub text_tokens: TextTokens,
    /// Counts the patches of a picture, if the text encoder sees pictures.
    pub patches: Option<PatchesOf>,
    /// Bytes per element of the text and image streams.
    pub activation_bytes: usize,
    /// Operations of the networks.
    pub flops: ModelFlops,
    /// Peak memory of the stages.
    pub peaks: Peaks,
    /// Tiling of pictures that are too large for the VAE.
    pub tiling: Tiling,
}

/// Estimates the cost of requests to one model.
#[derive(Clone)]
pub(crate) struct CostModel {
    pub(crate) sizes: RequestSizes,
    pub(crate) edit_size: EditSize,
    /// Cache configuration of requests without their own.
    pub(crate) cache: Option<CacheConfig>,
    /// Plans, which may be replaced while requests are running.
    pub(crate) plans: Plans,
    pub(crate) vae_tiling: VaeTiling,
}

/// How a request reuses steps.
#[derive(Clone)]
enum Reuse<'a> {
    Nothing,
    /// By the rules of cache-dit.
    Rules(&'a CacheConfig),
    /// By a plan that computes these steps.
    Plan(StepMask),
}

impl CostModel {
    pub(crate) fn cost(&self, request: &ImageRequest) -> RequestCost {
        let reuse = self.reuse(request);
        let uncached = RequestCost::uncached(request);
        let reference_tokens: usize = self.reference_tokens(request).sum();
        let hidden_tokens = uncached.tokens + reference_tokens;
        let kept = match &reuse {
            Reuse::Rules(config) => self.cache_bytes(config, hidden_tokens, self.most_text(request), uncached.passes),
            Reuse::Nothing | Reuse::Plan(_) => 0,
        };
        let (steps, sampler) = (uncached.steps, request.params.sampler);
        RequestCost {
            work: self.work(request, &reuse, hidden_tokens),
            memory: RequestMemory {
                state: (self.latent_bytes(request, reference_tokens) + self.prompt_bytes(request) + kept) as u64
                    + fitted_bytes(request),
                ..self.peaks(request, reference_tokens)
            },
            least_share: match &reuse {
                Reuse::Nothing => 1.0,
                Reuse::Rules(config) => self.least_share(config),
                Reuse::Plan(_) => 0.0,
            },
            known: match &reuse {
                Reuse::Nothing => None,
                Reuse::Rules(config) => known_steps(config, steps, self.sizes.segments.len()),
                Reuse::Plan(mask) => Some(mask.clone()),
            }
            .and_then(|mask| KnownSteps::new(mask.steps())),
            kind: match &reuse {
                Reuse::Nothing => 0,
                Reuse::Rules(config) => hash((format!("{config:?}"), steps, sampler)),
                Reuse::Plan(mask) => hash((mask.to_string(), steps)),
            },
            ..uncached
        }
    }

    fn reuse<'a>(&'a self, request: &'a ImageRequest) -> Reuse<'a> {
        let own = request.cache.as_ref();
        match own.or(self.cache.as_ref()) {
            Some(CacheConfig { planned: Some(aim), .. }) => self.planned(request, *aim),
            Some(config) if !config.never_reuses() => Reuse::Rules(config),
            _ => Reuse::Nothing,
        }
    }

    /// Returns the reuse by the plan that a request with this aim would follow now.
    fn planned(&self, request: &ImageRequest, aim: Aim) -> Reuse<'_> {
        let (steps, guided) = (request.params.num_inference_steps, request.params.guidance.branches().len() > 1);
        let planning = self.plans.current(guided).filter(|_| request.params.sampler == Sampler::Euler);
        let computed = planning.and_then(|planning| planning.computed(steps, aim));
        computed.map_or(Reuse::Nothing, Reuse::Plan)
    }

    /// Estimates the operations of a request's stages. `hidden_tokens` is the length of its image stream.
    fn work(&self, request: &ImageRequest, reuse: &Reuse<'_>, hidden_tokens: usize) -> Work {
        let flops = &self.sizes.flops;
        let own = request.params.size.image_seq_len();
        let (mut step, mut reused_step) = (0.0, 0.0);
        for prompt in prompts(request) {
            let text = (self.sizes.text_tokens)(prompt, request).expected;
            let around = flops.image_token * hidden_tokens as f64 + flops.text_token * text as f64;
            let blocks = |most: usize| -> f64 {
                let segments = self.sizes.segments.iter().zip(&flops.blocks);
                segments
                    .map(|(segment, block)| block.of(hidden_tokens + text) * segment.num_blocks.min(most) as f64)
                    .sum()
            };
            step += around + blocks(usize::MAX);
            reused_step += match reuse {
                Reuse::Nothing => around + blocks(usize::MAX),
                Reuse::Rules(config) => around + blocks(config.always_computed_blocks()),
                Reuse::Plan(_) => 0.0,
            };
        }
        let decode =
            self.decoder().parts(request.params.size).into_iter().map(|tokens| flops.vae_decoder.of(tokens)).sum();
        let preview = match request.previews.map(|previews| previews.method) {
            Some(PreviewMethod::Vae) => decode,
            Some(PreviewMethod::Latent2Rgb) => sketch(self.sizes.token_channels / 4).of(own),
            None => 0.0,
        };
        let fit = request.fit.map_or(0.0, |fit| resizing(fit.made, fit.inside));
        Work { encode: self.encode_work(request), step, reused_step, preview, decode, fit }
    }

    /// Returns how pictures are encoded.
    pub(crate) fn encoder(&self) -> VaeHalf {
        self.vae()[0]
    }

    /// Returns how pictures are decoded.
    pub(crate) fn decoder(&self) -> VaeHalf {
        self.vae()[1]
    }

    fn vae(&self) -> [VaeHalf; 2] {
        let RequestSizes { peaks, activation_bytes, tiling, .. } = &self.sizes;
        VaeHalf::both(peaks, *activation_bytes, *tiling, self.vae_tiling)
    }

    /// Operations for encoding all prompts and pictures, as if none were cached.
    fn encode_work(&self, request: &ImageRequest) -> f64 {
        let length = |prompt| (self.sizes.text_tokens)(prompt, request).expected;
        let sizes = || request.input_images.iter().map(|input| input.image.size);
        let texts: f64 = prompts(request).map(|prompt| self.text_work(length(prompt))).sum();
        let seen: f64 = sizes().map(|size| self.vision_work(size)).sum();
        let references: f64 = sizes().map(|size| self.reference_work(self.edit_size.of(size))).sum();
        texts + seen + references + self.kept_by_mask(request)
    }

    /// Operations of the text encoder for a prompt of `tokens` tokens in a transformer pass.
    pub(crate) fn text_work(&self, tokens: usize) -> f64 {
        let flops = &self.sizes.flops;
        flops.text_encoder.of(tokens + flops.template_tokens)
    }

    /// Operations of the vision tower for a picture of this size.
    pub(crate) fn vision_work(&self, picture: ImageSize) -> f64 {
        let patches = self.sizes.patches.as_ref().map_or(0, |patches| patches(picture));
        self.sizes.flops.vision.of(patches)
    }

    /// Operations of the VAE's encoder for a picture at the size that the transformer sees.
    pub(crate) fn reference_work(&self, size: ImageSize) -> f64 {
        let parts = self.encoder().parts(size).into_iter();
        parts.map(|tokens| self.sizes.flops.vae_encoder.of(tokens)).sum()
    }

    /// Operations for the part that a mask keeps. It is encoded at the output size, unless the picture has that size
    /// anyway.
    fn kept_by_mask(&self, request: &ImageRequest) -> f64 {
        let size = request.params.size;
        let masked = request.input_images.first().filter(|_| request.mask.is_some());
        let other = masked.filter(|input| self.edit_size.of(input.image.size) != size);
        other.map_or(0.0, |_| self.reference_work(size))
    }

    /// Returns the image tokens of each picture to edit.
    fn reference_tokens(&self, request: &ImageRequest) -> impl Iterator<Item = usize> {
        request.input_images.iter().map(|input| self.edit_size.of(input.image.size).image_seq_len())
    }

    /// Estimates the peak memory of the stages, without the state.
    fn peaks(&self, request: &ImageRequest, reference_tokens: usize) -> RequestMemory {
        let RequestSizes { peaks, activation_bytes, .. } = self.sizes;
        let own = request.params.size.image_seq_len();
        let text: Vec<usize> = self.most_text_tokens(request).collect();
        let passes: usize = text.iter().map(|text| own + reference_tokens + text).sum();
        // Pictures and prompts are encoded one after another. Under a mask, the first picture has the output size.
        let size = request.params.size;
        let pictures = request.input_images.iter().map(|input| self.edit_size.of(input.image.size));
        let pictures = pictures.chain(request.mask.iter().map(|_| size)).map(|size| self.encoder().bytes(size));
        let bytes = |numbers: usize| (numbers * activation_bytes) as u64;
        let prompt = bytes(text.iter().max().unwrap_or(&0) * peaks.text);
        RequestMemory {
            state: 0,
            encode: pictures.fold(prompt, u64::max),
            step: bytes(passes * peaks.block),
            // A preview may be decoded between two steps.
            decode: self.decoder().bytes(size),
        }
    }

    /// Bytes of the latents before and after a step, of a preview's estimate and of the sampler's state. Each counts
    /// twice, since the old tensors stay until the step has succeeded. Pictures to edit, and the part that a mask
    /// keeps, do not change.
    fn latent_bytes(&self, request: &ImageRequest, reference_tokens: usize) -> usize {
        let own = request.params.size.image_seq_len();
        let own_cache = request.cache.as_ref().or(self.cache.as_ref());
        let solver = match own_cache.is_some_and(|config| config.planned.is_some()) {
            true => PlannedRun::MOST_KEPT,
            false => Solver::most_kept(request.params.sampler),
        };
        // A request that plans are learnt from keeps the latents of all its steps.
        let guided = request.params.guidance.branches().len() > 1;
        let is_learning =
            own_cache.is_some_and(|config| config.planned.is_some()) && self.plans.progress(guided).is_some();
        let kept = if is_learning { request.params.num_inference_steps } else { 0 };
        let moving = if request.previews.is_some() { 4 } else { 2 } + solver + kept;
        let kept_by_mask = if request.mask.is_some() { 2 } else { 0 };
        (own * (moving + kept_by_mask) + reference_tokens) * self.sizes.token_channels * size_of::<f32>()
    }

    /// Bytes that the cache keeps between two steps, and that a computed step stores in addition: the old residuals
    /// stay until the step has succeeded.
    fn cache_bytes(&self, config: &CacheConfig, hidden_tokens: usize, text_tokens: usize, passes: usize) -> usize {
        let RequestSizes { dim, activation_bytes, .. } = self.sizes;
        let of_segment = |segment: &BlockList| match segment.is_dual {
            // Text that nothing after the middle blocks reads is not kept.
            true if segment.encoder_is_used || config.bn_compute_blocks > 0 => {
                SegmentTokens { hidden: hidden_tokens, encoder: text_tokens }
            }
            true => SegmentTokens { hidden: hidden_tokens, encoder: 0 },
            false => SegmentTokens { hidden: hidden_tokens + text_tokens, encoder: 0 },
        };
        let segments: Vec<_> = self.sizes.segments.iter().map(of_segment).collect();
        // Residuals of the first blocks and of the middle blocks.
        let stored: usize = segments.iter().map(|tokens| 2 * tokens.hidden + tokens.encoder).sum();
        let stored_by_a_step = stored * dim * activation_bytes * passes;
        config.bytes_per_request(&segments, dim, activation_bytes, passes) + stored_by_a_step
    }

    /// Share of the blocks that always run, over all segments.
    fn least_share(&self, config: &CacheConfig) -> f64 {
        let blocks = || self.sizes.segments.iter().map(|segment| segment.num_blocks);
        let always: usize = blocks().map(|blocks| config.always_computed_blocks().min(blocks)).sum();
        always as f64 / blocks().sum::<usize>() as f64
    }

    fn prompt_bytes(&self, request: &ImageRequest) -> usize {
        let all: usize = self.most_text_tokens(request).sum();
        all * self.sizes.text_width * self.sizes.activation_bytes
    }

    /// Upper bound on the text tokens of the longest prompt.
    fn most_text(&self, request: &ImageRequest) -> usize {
        self.most_text_tokens(request).max().unwrap_or(0)
    }

    /// Upper bound on the text tokens of each pass.
    fn most_text_tokens(&self, request: &ImageRequest) -> impl Iterator<Item = usize> {
        prompts(request).map(|prompt| (self.sizes.text_tokens)(prompt, request).most)
    }
}

/// Returns the prompt of each pass.
fn prompts(request: &ImageRequest) -> impl Iterator<Item = &str> {
    request.params.guidance.branches().iter().map(|branch| match branch {
        CfgBranch::Cond => request.prompt.as_str(),
        CfgBranch::Uncond => request.negative_prompt.as_deref().unwrap_or_default(),
    })
}

/// Bytes of the picture at the requested size, if it is generated at another: of the result, and of the resized part
/// that is placed in it.
fn fitted_bytes(request: &ImageRequest) -> u64 {
    request.fit.map_or(0, |fit| 3 * (fit.asked.pixels() + fit.inside.pixels()) as u64)
}

/// Identifies a kind of request: requests of a kind have the same settings, step count and sampler, and so reuse alike.
fn hash(what: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
