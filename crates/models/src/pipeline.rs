//! The [`Pipeline`] of a model, common to all families.

use std::sync::Arc;

use candle_core::{DType, Tensor};
use diffusion::{
    CfgBranch, EncodingsUse, Estimator, Fit, ImageRequest, ImageSize, InputImage, Interrupt, ModelCard, Pipeline,
    PipelineError, PreviewMethod, RgbImage, StepReport, known_prompt,
};
use kernels::{free_memory, in_pool};
use tracing::info_span;

use crate::caching::{Cached, Caching};
use crate::cost::CostModel;
use crate::dit::{Dit, ReferenceLatents};
use crate::encodings::{Encoding, Encodings, Key};
use crate::family::{Family, VisionFeatures, encode_picture};
use crate::fit::{fitted, fitted_mask, padded, presented};
use crate::latent_rgb::{LatentRgb, enlarged};
use crate::learn::{About, learn};
use crate::learning::{LearningRun, OnLearnt};
use crate::mask::{KeptPixels, MaskedEdit, composed, mask_warnings};
use crate::options::LoadOptions;
use crate::pixels::{bytes, finite_numbers};
use crate::solver::Solver;
use crate::state::{Branch, RequestState};
use crate::step::denoise_step;
use crate::tiling::decode_tiles;
use crate::until_set::until_set;
use crate::{Result, device_error};

/// A loaded model.
pub struct DiffusionPipeline<F> {
    family: F,
    encodings: Encodings,
    /// Bytes that are kept for requests to come, at most.
    kept_at_most: u64,
    latent_rgb: LatentRgb,
    costs: CostModel,
    /// Digest of the transformer's files.
    model: String,
    on_learnt: OnLearnt,
}

/// A loaded model of any family.
pub type AnyPipeline = Box<dyn Pipeline<State = RequestState>>;

impl<F: Family> DiffusionPipeline<F> {
    /// Creates a pipeline for a loaded family.
    pub fn new(family: F, options: &LoadOptions) -> Self {
        let sizes = family.sizes();
        family.dit().keep_at_most(options.kept.rope_tables);
        DiffusionPipeline {
            encodings: Encodings::new(options.kept.encodings),
            kept_at_most: options.kept.all(),
            latent_rgb: LatentRgb::new(sizes.token_channels / 4),
            costs: CostModel {
                sizes,
                edit_size: family.card().edit_size,
                cache: options.cache.clone(),
                plans: options.plans.clone(),
                vae_tiling: options.vae_tiling,
            },
            model: String::new(),
            on_learnt: options.on_learnt.clone(),
            family,
        }
    }

    /// Sets the digest of the transformer's files, by which plans identify their model.
    #[must_use]
    pub fn with_digest(self, model: String) -> Self {
        DiffusionPipeline { model, ..self }
    }

    /// Returns the model.
    pub fn family(&self) -> &F {
        &self.family
    }

    fn branches(&mut self, request: &ImageRequest, used: &mut EncodingsUse) -> Result<Vec<Branch>, PipelineError> {
        let knows = self.family.card().knows.clone();
        let branches = request.params.guidance.branches().iter().map(|&branch| {
            let (field, prompt) = match branch {
                CfgBranch::Cond => ("prompt", request.prompt.as_str()),
                CfgBranch::Uncond => ("negative_prompt", request.negative_prompt.as_deref().unwrap_or_default()),
            };
            let prompt = &known_prompt(prompt, &knows).text;
            Ok(Branch { branch, prompt_embeds: self.embed(field, prompt, &request.input_images, used)? })
        });
        branches.collect()
    }

    /// Returns the text stream of `prompt`, from the cache or newly encoded.
    fn embed(
        &mut self,
        field: &'static str,
        prompt: &str,
        pictures: &[InputImage],
        used: &mut EncodingsUse,
    ) -> Result<Tensor, PipelineError> {
        let pictures = if self.family.sees_images() { pictures } else { &[] };
        let digests = pictures.iter().map(|picture| picture.digest).collect();
        let key = Key::Prompt { text: prompt.to_owned(), pictures: digests };
        if let Some(kept) = self.encodings.get(&key, used) {
            return Ok(kept.tokens);
        }
        let seen = pictures.iter().map(|picture| self.see(picture, used)).collect::<Result<Vec<_>, _>>()?;
        let family = &self.family;
        let _span = info_span!("encode_prompt").entered();
        let tokens = in_pool(family.device(), || family.encode_prompt(field, prompt, &seen))?;
        used.work += self.costs.text_work(tokens.dims()[0]);
        let encoding = Encoding { grid: (1, tokens.dims()[0]), tokens };
        self.encodings.insert(key, &encoding);
        Ok(encoding.tokens)
    }

    /// Encodes a picture for the text encoder, or takes it from the cache.
    fn see(&mut self, picture: &InputImage, used: &mut EncodingsUse) -> Result<VisionFeatures, PipelineError> {
        let family = &self.family;
        let work = self.costs.vision_work(picture.image.size);
        let encoding = self.encodings.get_or(Key::Vision(picture.digest), used, work, || {
            let _span = info_span!("encode_vision", size = %picture.image.size).entered();
            let VisionFeatures { features, grid } = in_pool(family.device(), || family.encode_vision(&picture.image))?;
            Ok::<_, PipelineError>(Encoding { tokens: features, grid })
        })?;
        Ok(VisionFeatures { features: encoding.tokens, grid: encoding.grid })
    }

    /// Encodes a picture to edit for the transformer, or takes it from the cache.
    fn reference(&mut self, picture: &InputImage, used: &mut EncodingsUse) -> Result<ReferenceLatents, PipelineError> {
        let rule = self.family.card().edit_size;
        let size = rule.of(picture.image.size);
        let encoding = self.latents_of(picture.digest, size, used, || fitted(&picture.image, rule))?;
        Ok(ReferenceLatents { latents: encoding.tokens, token_grid: encoding.grid })
    }

    /// Returns the latents of the picture with this digest at `size`, in whole tokens.
    fn latents_of(
        &mut self,
        digest: [u8; 32],
        size: ImageSize,
        used: &mut EncodingsUse,
        picture: impl FnOnce() -> RgbImage + Send,
    ) -> Result<Encoding, PipelineError> {
        let family = &self.family;
        let (work, tiling) = (self.costs.reference_work(size), self.costs.encoder().tiling(size));
        self.encodings.get_or(Key::Reference(digest, size), used, work, || {
            let _span = info_span!("encode_reference", %size).entered();
            let tokens = in_pool(family.device(), || encode_picture(family, &picture(), tiling));
            let tokens = tokens.map_err(device_error)?;
            Ok(Encoding { tokens, grid: size.token_grid() })
        })
    }

    /// Prepares the kept part of the first picture under the request's mask, at the output size.
    fn masked(
        &mut self,
        request: &ImageRequest,
        noise: &Tensor,
        used: &mut EncodingsUse,
    ) -> Result<Option<MaskedEdit>, PipelineError> {
        let (Some(mask), Some(input)) = (&request.mask, request.input_images.first()) else { return Ok(None) };
        let (size, rule) = (request.params.size, self.family.card().edit_size);
        let pixels = match size == rule.of(input.image.size) {
            true => KeptPixels {
                picture: fitted(&input.image, rule),
                editable: fitted_mask(&mask.editable, mask.size, rule),
            },
            false => KeptPixels::resized(&input.image, mask, size),
        };
        let whole = size.padded();
        let original = match whole == size {
            true => self.latents_of(input.digest, size, used, || pixels.picture.clone())?,
            // The result is cropped from whole tokens at the end. Such latents serve only this request, so they are not
            // cached.
            false => {
                let picture = padded(&pixels.picture, whole);
                let tiling = self.costs.encoder().tiling(whole);
                let encode = || encode_picture(&self.family, &picture, tiling);
                let tokens = in_pool(self.family.device(), encode).map_err(device_error)?;
                used.work += self.costs.reference_work(whole);
                Encoding { tokens, grid: whole.token_grid() }
            }
        };
        let masked = MaskedEdit::new(pixels, original.tokens, noise.clone(), self.family.device());
        masked.map(Some).map_err(device_error)
    }

    /// Counts the prompt tokens of all passes.
    fn prompt_tokens(&self, request: &ImageRequest) -> Result<usize> {
        let guided = request.params.guidance.branches().len() > 1;
        let negative = request.negative_prompt.as_deref().filter(|_| guided);
        let prompts = [Some(request.prompt.as_str()), negative];
        let knows = &self.family.card().knows;
        prompts.into_iter().flatten().map(|prompt| self.family.prompt_tokens(&known_prompt(prompt, knows).text)).sum()
    }

    fn caching(&self) -> Caching<'_, F> {
        Caching { family: &self.family, costs: &self.costs, model: &self.model }
    }

    /// Prepares the request's state before step 0.
    fn begin(&mut self, request: &ImageRequest) -> Result<RequestState, PipelineError> {
        let size = request.params.size;
        let mut encodings = EncodingsUse::default();
        let branches = self.branches(request, &mut encodings)?;
        let references = request.input_images.iter().map(|picture| self.reference(picture, &mut encodings));
        let references = references.collect::<Result<Vec<_>, _>>()?;
        let Cached { residuals, planned, learning, sigmas, mut warnings } =
            self.caching().of(request, branches.len())?;
        warnings.extend(request.notes(self.family.card()));
        let latents = self.family.noise(request.params.seed, size).map_err(device_error)?;
        let masked = self.masked(request, &latents, &mut encodings)?;
        if masked.is_some() {
            warnings.extend(mask_warnings(request));
        }
        encodings.bytes = self.encodings.bytes() as u64;
        let prompt_tokens = self.prompt_tokens(request).map_err(device_error)?;
        self.synchronize()?;
        Ok(RequestState {
            size,
            fit: request.fit,
            sigmas: sigmas
                .unwrap_or_else(|| self.family.sigmas(request.params.num_inference_steps, size.image_seq_len())),
            guidance: request.params.guidance,
            previews: request.previews,
            prompt_tokens,
            branches,
            references: references.into(),
            masked,
            encodings,
            warnings,
            residuals,
            planned,
            learning: learning.map(|kind| LearningRun::new(kind, latents.clone())),
            latents,
            solver: Solver::new(request.params.sampler),
            estimate: None,
            step_index: 0,
        })
    }

    /// Decodes packed latents, and lets previews learn from the colours.
    fn picture(&mut self, tokens: &Tensor, size: ImageSize) -> Result<RgbImage, PipelineError> {
        let latents = self.family.unpack(tokens, size.token_grid()).map_err(device_error)?;
        let numbers = finite_numbers("latents", &latents)?;
        let picture = self.decoded(&latents, size)?;
        self.latent_rgb.learn(&numbers, &picture);
        Ok(picture.crop_center(size))
    }

    /// Decodes packed latents without learning from the colours.
    fn again(&self, tokens: &Tensor, size: ImageSize) -> Result<RgbImage, PipelineError> {
        let latents = self.family.unpack(tokens, size.token_grid()).map_err(device_error)?;
        Ok(self.decoded(&latents, size)?.crop_center(size))
    }

    /// Decodes latents to a picture in whole tokens.
    fn decoded(&self, latents: &Tensor, size: ImageSize) -> Result<RgbImage, PipelineError> {
        let family = &self.family;
        let tiling = self.costs.decoder().tiling(size);
        let decode = || match tiling {
            Some(tiling) => decode_tiles(latents, tiling, |tile| family.decode(tile)),
            None => family.decode(latents)?.flatten_all()?.to_vec1::<f32>(),
        };
        let pixels = in_pool(family.device(), decode).map_err(device_error)?;
        Ok(RgbImage { size: size.padded(), pixels: bytes(&pixels)? })
    }

    /// Draws packed latents without the VAE. Returns `None` until a picture was decoded to learn from.
    fn sketch(&self, tokens: &Tensor, size: ImageSize) -> Result<Option<RgbImage>, PipelineError> {
        let (rows, columns) = size.token_grid();
        let latents = self.family.unpack(tokens, (rows, columns)).map_err(device_error)?;
        let latents = finite_numbers("latents", &latents)?;
        let small = self.latent_rgb.draw(&latents, ImageSize { width: 2 * columns, height: 2 * rows });
        Ok(small.map(|small| enlarged(small).crop_center(size)))
    }

    fn draw(&mut self, tokens: &Tensor, size: ImageSize, method: PreviewMethod) -> Result<RgbImage, PipelineError> {
        let sketch = match method {
            PreviewMethod::Latent2Rgb => self.sketch(tokens, size)?,
            PreviewMethod::Vae => None,
        };
        sketch.map_or_else(|| self.picture(tokens, size), Ok)
    }

    /// Finishes a picture or preview: restores the pixels that the mask keeps, and resizes to the requested size.
    fn presented(&self, picture: RgbImage, masked: Option<&MaskedEdit>, fit: Option<Fit>) -> RgbImage {
        let Some(fit) = fit else { return composed(masked, picture) };
        in_pool(self.family.device(), || presented(composed(masked, picture), fit))
    }

    /// Waits for the device. GPU work is asynchronous: without the wait, the time of a turn would only be the time to
    /// enqueue it. A picture needs no wait, because its pixels are copied from the device.
    fn synchronize(&self) -> Result<(), PipelineError> {
        self.family.device().synchronize().map_err(device_error)
    }
}

impl<F: Family> Pipeline for DiffusionPipeline<F> {
    type State = RequestState;

    fn card(&self) -> &ModelCard {
        self.family.card()
    }

    fn estimator(&self) -> Estimator {
        let costs = self.costs.clone();
        Arc::new(move |request| costs.cost(request))
    }

    fn prepare(&mut self, request: &ImageRequest, interrupt: &Interrupt) -> Result<RequestState, PipelineError> {
        until_set(&self.family.device().clone(), interrupt, || self.begin(request))
    }

    fn prompt_tokens(&self, state: &RequestState) -> usize {
        state.prompt_tokens
    }

    fn encodings(&self, state: &RequestState) -> EncodingsUse {
        state.encodings
    }

    fn kept_bytes(&self) -> u64 {
        (self.encodings.bytes() + self.family.dit().kept_bytes()) as u64
    }

    fn free_bytes(&self) -> Option<u64> {
        // What is kept may still grow, beside whatever request.
        let growth = self.kept_at_most.saturating_sub(self.kept_bytes());
        free_memory(self.family.device()).map(|free| free.saturating_sub(growth))
    }

    fn warnings(&self, state: &RequestState) -> Vec<String> {
        state.warnings.clone()
    }

    fn step(
        &mut self,
        batch: &mut [&mut RequestState],
        interrupt: &Interrupt,
    ) -> Result<Vec<StepReport>, PipelineError> {
        let family = &self.family;
        let is_evaluated = batch.iter().any(|state| state.is_evaluated());
        until_set(&self.family.device().clone(), interrupt, || {
            let mut step = || denoise_step(family.dit(), batch);
            // If every plan skips the step, there is no work for several threads.
            let reports = match is_evaluated {
                true => in_pool(family.device(), step),
                false => step(),
            };
            let reports = reports.map_err(device_error)?;
            self.synchronize()?;
            Ok(reports)
        })
    }

    fn preview(
        &mut self,
        state: &RequestState,
        method: PreviewMethod,
        interrupt: &Interrupt,
    ) -> Result<RgbImage, PipelineError> {
        let clean = state.clean_latents().ok_or_else(|| {
            PipelineError::Model(format!("no preview is due after {} steps. This is a bug.", state.step_index))
        })?;
        until_set(&self.family.device().clone(), interrupt, || {
            let drawn = self.draw(clean, state.size, method)?;
            Ok(self.presented(drawn, state.masked.as_ref(), state.fit))
        })
    }

    fn latents(&self, state: &RequestState) -> Result<Vec<f32>, PipelineError> {
        let latents = state.latents.flatten_all().and_then(|latents| latents.to_dtype(DType::F32)?.to_vec1());
        latents.map_err(device_error)
    }

    fn release(&mut self, state: &mut RequestState) {
        state.release();
    }

    fn decode(&mut self, state: RequestState, interrupt: &Interrupt) -> Result<RgbImage, PipelineError> {
        // Dropping the state frees the step cache's residuals for the VAE.
        let (latents, size, masked, fit) = (state.latents.clone(), state.size, state.masked.clone(), state.fit);
        let about = |run| (run, About::new(&self.family.card().class, &self.model, &state));
        let learning = state.learning.clone().map(about);
        drop(state);
        until_set(&self.family.device().clone(), interrupt, || {
            let picture = self.picture(&latents, size)?;
            if let Some((run, about)) = learning {
                learn(&self.costs.plans, &self.on_learnt, (&run, about), &picture, |latents| self.again(latents, size));
            }
            Ok(self.presented(picture, masked.as_ref(), fit))
        })
    }
}
