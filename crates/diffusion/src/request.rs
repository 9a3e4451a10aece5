//! Validation: from a draft to complete requests.

use std::sync::Arc;

use cache::CacheConfig;
use serde::{Deserialize, Serialize};

use crate::edit_size::ShapeOf;
use crate::invalid_request::{InvalidRequest, guidance_within, within};
use crate::knowledge::known_prompt;
use crate::limits::{self, Limits, MAX_IMAGES, MAX_INFERENCE_STEPS, MAX_PROMPT_CHARS};
use crate::shared;
use crate::{
    Fit, Guidance, GuidanceKind, Held, ImageSize, InputImage, Mask, ModelCard, Previews, Quality, Sampler,
    SamplingParams,
};

/// The last seed; 0 follows it. Every reported seed can thus be given again as an i64.
const MAX_SEED: u64 = i64::MAX as u64;

/// A request as given over HTTP or on the command line: every field may be missing.
#[derive(Clone, Debug, Default)]
pub struct RequestDraft {
    /// What the picture should show.
    pub prompt: String,
    /// What the picture should not show; the model's default if absent. Two-pass guidance needs a negative prompt
    /// (`" "` counts).
    pub negative_prompt: Option<String>,
    /// The pictures to edit.
    pub input_images: Arc<[InputImage]>,
    /// Where the first picture may be changed; everywhere if absent.
    pub mask: Option<Mask>,
    /// The picture's size. If absent, the model's default, or derived from the pictures to edit by the model's rule.
    pub size: Option<ImageSize>,
    /// Number of pictures, with seeds `seed`, `seed + 1`, …
    pub n: Option<i64>,
    /// Denoising steps; the model's number for `quality` if absent.
    pub num_inference_steps: Option<i64>,
    /// The quality level, which selects the denoising steps.
    pub quality: Quality,
    /// The sampler; the model's default if absent.
    pub sampler: Option<Sampler>,
    /// The weight of plain classifier-free guidance, or the input of embedded guidance.
    pub guidance_scale: Option<f64>,
    /// The weight of true classifier-free guidance, which runs above 1 only: 1 turns it off.
    pub true_cfg_scale: Option<f64>,
    /// The seed of the noise; `None` and -1 draw a random seed.
    pub seed: Option<i64>,
    /// Previews.
    pub previews: Option<Previews>,
    /// The step cache's settings; the operator's if absent.
    pub cache: Option<CacheConfig>,
    /// A guard that lives as long as the request.
    pub held: Held,
}

/// A validated request for one picture. It serializes; a deserialized request has only had its shape checked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRequest {
    /// What the picture should show: not empty.
    pub prompt: String,
    /// What the picture should not show: present only with two-pass guidance, and always then.
    pub negative_prompt: Option<String>,
    /// The pictures to edit, within the model's bound on their number.
    #[serde(with = "shared::images")]
    pub input_images: Arc<[InputImage]>,
    /// Where the first picture may be changed. The mask has its size.
    #[serde(with = "shared::mask")]
    pub mask: Option<Arc<Mask>>,
    /// The parameters of the sampling loop.
    pub params: SamplingParams,
    /// How the picture gets the requested size, if it is generated at another.
    pub fit: Option<Fit>,
    /// Previews.
    pub previews: Option<Previews>,
    /// The step cache's settings; the operator's if absent.
    pub cache: Option<CacheConfig>,
    /// A guard that lives as long as the request.
    #[serde(skip)]
    pub held: Held,
}

impl ImageRequest {
    /// The picture's size.
    pub fn size(&self) -> ImageSize {
        self.fit.map_or(self.params.size, |fit| fit.asked)
    }

    /// Notes for the client before the first step, as sentences: how the picture gets its size, what the model can
    /// draw, and which sampler it was trained for.
    pub fn notes(&self, card: &ModelCard) -> Vec<String> {
        let known = known_prompt(&self.prompt, &card.knows);
        let sampler = self.params.sampler;
        let is_distilled = card.guidance == GuidanceKind::None;
        let other = (is_distilled && sampler != Sampler::Euler).then(|| {
            format!("the model was distilled into few steps of euler: {} may draw it less well", sampler.name())
        });
        known.note.into_iter().chain(self.fit.map(|fit| fit.to_string())).chain(other).collect()
    }
}

impl RequestDraft {
    /// Checks every field except the pictures, for a caller that does not have them yet. A size that follows from them
    /// is not known yet.
    ///
    /// # Errors
    /// The errors of [`RequestDraft::build`].
    pub fn check(&self, card: &ModelCard, limits: &Limits) -> Result<(), InvalidRequest> {
        self.check_prompt()?;
        self.n()?;
        self.num_inference_steps(card)?;
        if let Some(size) = self.size {
            limits::size(size, limits.bound(card, self.native_sizes(card)))?;
        }
        self.guidance_scale(card)?;
        self.first_seed()?;
        Ok(())
    }

    /// The number of pictures.
    ///
    /// # Errors
    /// The number is below 1 or above [`MAX_IMAGES`].
    pub fn n(&self) -> Result<usize, InvalidRequest> {
        Ok(within("n", self.n.unwrap_or(1), 1..=MAX_IMAGES)? as usize)
    }

    /// Checks every field and fills in the model's defaults. Returns one [`ImageRequest`] per picture, with consecutive
    /// seeds from the given one that wrap to 0 after the last. `random_seed` is called once per picture if no seed is
    /// given.
    ///
    /// # Errors
    /// The first field outside its bound.
    pub fn build(
        self,
        card: &ModelCard,
        limits: &Limits,
        random_seed: impl FnMut() -> u32,
    ) -> Result<Vec<ImageRequest>, InvalidRequest> {
        self.check_prompt()?;
        self.check_pictures(card)?;
        self.filled(card, limits, random_seed)
    }

    /// A lower bound on an edit, for a caller that does not have its pictures yet: the same number of requests, each
    /// costing no more than the final one.
    ///
    /// # Errors
    /// The errors of [`RequestDraft::check`].
    pub fn least(&self, card: &ModelCard, limits: &Limits) -> Result<Vec<ImageRequest>, InvalidRequest> {
        self.check_prompt()?;
        let size = self.size.unwrap_or_else(|| card.edit_size.least(limits.max_pixels(card)));
        RequestDraft { size: Some(size), ..self.clone() }.filled(card, limits, || 0)
    }

    fn filled(
        self,
        card: &ModelCard,
        limits: &Limits,
        mut random_seed: impl FnMut() -> u32,
    ) -> Result<Vec<ImageRequest>, InvalidRequest> {
        let n = self.n()?;
        let num_inference_steps = self.num_inference_steps(card)?;
        let bound = limits.bound(card, self.native_sizes(card));
        let asked = limits::size(self.size.unwrap_or_else(|| self.default_size(card, bound.pixels)), bound)?;
        let fit = Fit::nearest(asked, self.native_sizes(card));
        let size = fit.map_or(asked, |fit| fit.made);
        self.guidance_scale(card)?;
        let first_seed = self.first_seed()?;
        let (guidance, sampler) = (self.guidance(card), self.sampler(card));
        let negative_prompt = self.negative_prompt.or_else(|| card.default_negative_prompt.clone());
        let negative_prompt = negative_prompt.filter(|_| guidance.branches().len() > 1);
        let mask = self.mask.map(Arc::new);
        let requests = (0..n as u64).map(|i| {
            let seed = first_seed.map_or_else(|| u64::from(random_seed()), |seed| (seed + i) & MAX_SEED);
            ImageRequest {
                prompt: self.prompt.clone(),
                negative_prompt: negative_prompt.clone(),
                input_images: self.input_images.clone(),
                mask: mask.clone(),
                params: SamplingParams { size, num_inference_steps, sampler, guidance, seed },
                fit,
                previews: self.previews,
                cache: self.cache.clone(),
                held: self.held.clone(),
            }
        });
        Ok(requests.collect())
    }

    fn num_inference_steps(&self, card: &ModelCard) -> Result<usize, InvalidRequest> {
        let steps = self.num_inference_steps.unwrap_or(card.num_inference_steps(self.quality) as i64);
        Ok(within("num_inference_steps", steps, 1..=MAX_INFERENCE_STEPS)? as usize)
    }

    /// The sampler, the model's default if absent.
    pub(crate) fn sampler(&self, card: &ModelCard) -> Sampler {
        self.sampler.unwrap_or(card.default_sampler)
    }

    /// The first seed; `None` if seeds are random.
    fn first_seed(&self) -> Result<Option<u64>, InvalidRequest> {
        match self.seed {
            None | Some(-1) => Ok(None),
            Some(seed) => Ok(Some(within("seed", seed, -1..=i64::MAX)? as u64)),
        }
    }

    /// The sizes that the picture may be generated at; empty if any. An edit follows its input pictures instead.
    fn native_sizes<'a>(&self, card: &'a ModelCard) -> &'a [ImageSize] {
        if self.input_images.is_empty() { &card.native_sizes } else { &[] }
    }

    /// The weight of the model's guidance. Both weights are checked, including the one that this model does not use.
    fn guidance_scale(&self, card: &ModelCard) -> Result<f64, InvalidRequest> {
        let plain = self.guidance_scale.map(|scale| guidance_within("guidance_scale", scale)).transpose()?;
        let true_cfg = self.true_cfg_scale.map(|scale| guidance_within("true_cfg_scale", scale)).transpose()?;
        let given = match card.guidance {
            GuidanceKind::TrueCfg => true_cfg,
            // Other servers use other names for it, such as `cfg_scale`.
            GuidanceKind::Cfg => plain.or(true_cfg),
            GuidanceKind::Embedded => plain,
            GuidanceKind::None => None,
        };
        Ok(given.unwrap_or(card.default_guidance_scale))
    }

    /// The resulting guidance. A weight out of bounds counts as absent.
    pub(crate) fn guidance(&self, card: &ModelCard) -> Guidance {
        let scale = self.guidance_scale(card).unwrap_or(card.default_guidance_scale);
        let has_negative_prompt = self.negative_prompt.is_some() || card.default_negative_prompt.is_some();
        card.guidance.guidance(scale, has_negative_prompt)
    }

    /// The model's default size, or the size derived from the pictures to edit. The aspect ratio is kept under the
    /// server's limit.
    fn default_size(&self, card: &ModelCard, max_pixels: usize) -> ImageSize {
        let shape = match card.edit_size.shape_of() {
            ShapeOf::Last if self.mask.is_none() => self.input_images.last(),
            ShapeOf::First | ShapeOf::Last => self.input_images.first(),
        };
        let Some(shape) = shape.map(|input| input.image.size) else { return card.default_size };
        let size = card.edit_size.of(shape);
        if size.pixels() <= max_pixels { size } else { shape.scaled_to_area(max_pixels) }
    }

    fn check_pictures(&self, card: &ModelCard) -> Result<(), InvalidRequest> {
        let sizes: Vec<_> = self.input_images.iter().map(|input| input.image.size).collect();
        card.input_images.check(&sizes)?;
        let Some(mask) = &self.mask else { return Ok(()) };
        match sizes.first() {
            None => Err(InvalidRequest::new("mask", "come with the picture that it belongs to", "a mask alone")),
            Some(&first) if mask.size != first => {
                Err(InvalidRequest::new("mask", format!("be as large as the (first) picture, {first}"), mask.size))
            }
            Some(_) => Ok(()),
        }
    }

    fn check_prompt(&self) -> Result<(), InvalidRequest> {
        if self.prompt.trim().is_empty() {
            return Err(InvalidRequest::new("prompt", "not be empty", format!("{:?}", self.prompt)));
        }
        let texts = [("prompt", Some(&self.prompt)), ("negative_prompt", self.negative_prompt.as_ref())];
        for (field, text) in texts {
            let chars = text.map_or(0, |text| text.chars().count());
            if chars > MAX_PROMPT_CHARS {
                let bound = format!("have at most {MAX_PROMPT_CHARS} characters");
                return Err(InvalidRequest::new(field, bound, format!("{chars} characters")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;
