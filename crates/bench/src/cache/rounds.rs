//! Makes the pictures. A round makes all pictures of one prompt one after the other: the uncached one, each
//! configuration's and those in fewer steps. So all of them are timed under the same conditions.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::gmsd::gmsd;
use cache::{CacheConfig, Calibration, Plans};
use diffusion::{ImageRequest, Interrupt, Pipeline, PipelineError, RequestDraft, RgbImage, Sampler, StepReport};
use latentd::Error;
use models::AnyPipeline;
use omni::{OmniInput, psnr, ssim};

use super::images;
use super::summary::{self, PictureScore};

/// One kind of picture in a round.
#[derive(Clone, Debug)]
pub(super) struct Trial {
    pub(super) name: String,
    pub(super) steps: usize,
    /// `None` is the model's own sampler.
    pub(super) sampler: Option<Sampler>,
    /// `None` computes every step.
    pub(super) config: Option<CacheConfig>,
    /// The calibration that its plans are made from, if it follows plans.
    pub(super) calibration: Option<Calibration>,
}

impl Trial {
    /// A trial that computes every step with the model's own sampler.
    pub(super) fn uncached(steps: usize) -> Self {
        Trial { name: "uncached".into(), steps, sampler: None, config: None, calibration: None }
    }
}

/// The measurements of one step count: each prompt's time without a cache, and each trial's pictures.
#[derive(Default)]
pub(super) struct MeasuredPicture {
    pub(super) uncached_ms: Vec<f64>,
    /// `pictures[trial][prompt]`
    pub(super) pictures: Vec<Vec<PictureScore>>,
}

/// The settings that all pictures share.
pub(super) struct Rounds {
    pub(super) pipeline: AnyPipeline,
    /// The pipeline's plans. Each trial replaces them with its own.
    pub(super) plans: Plans,
    /// A request without prompt, step count and cache.
    pub(super) draft: RequestDraft,
    /// Seed of the first prompt; it counts up from prompt to prompt.
    pub(super) seed: i64,
    pub(super) images: Option<PathBuf>,
    /// The pipeline's warnings, each one once.
    pub(super) warnings: Vec<String>,
}

/// A finished picture.
struct Rendered {
    image: RgbImage,
    steps: Vec<StepReport>,
    denoise: Duration,
}

impl Rounds {
    /// Runs one round per prompt. `tick` is called after each picture.
    ///
    /// # Errors
    /// A request is invalid, the device fails, or a picture cannot be compared or written.
    pub(super) fn measure(
        &mut self,
        inputs: &[OmniInput],
        steps: usize,
        trials: &[Trial],
        tick: impl Fn(),
    ) -> Result<MeasuredPicture, Error> {
        let mut measured = MeasuredPicture { pictures: vec![Vec::new(); trials.len()], ..MeasuredPicture::default() };
        for (i, input) in inputs.iter().enumerate() {
            let uncached = Trial::uncached(steps);
            let all: Vec<_> = std::iter::once(&uncached).chain(trials).collect();
            let mut rendered: Vec<Option<Rendered>> = all.iter().map(|_| None).collect();
            // Each trial begins a round in turn, so that a machine that slows down within a round favours none.
            for (place, trial) in (0..all.len()).map(|j| (i + j) % all.len()).map(|place| (place, all[place])) {
                let picture = self.render(&self.request(input, i, trial)?, trial)?;
                self.save(&picture, i, steps, trial)?;
                rendered[place] = Some(picture);
                tick();
            }
            let mut rendered = rendered.into_iter().flatten();
            let reference = rendered.next().expect("a round begins with the uncached picture. This is a bug.");
            measured.uncached_ms.push(milliseconds(reference.denoise));
            for ((of_trial, trial), picture) in measured.pictures.iter_mut().zip(trials).zip(rendered) {
                of_trial.push(compare(&reference, &picture, trial)?);
            }
        }
        Ok(measured)
    }

    /// The request of the `i`th input.
    ///
    /// # Errors
    /// A field is outside its bound.
    pub(super) fn request(&self, input: &OmniInput, i: usize, trial: &Trial) -> Result<ImageRequest, Error> {
        let draft = RequestDraft {
            prompt: input.prompt.clone(),
            input_images: input.pictures.images.clone(),
            num_inference_steps: Some(trial.steps as i64),
            sampler: trial.sampler,
            seed: Some(self.seed + i as i64),
            cache: trial.config.clone(),
            ..self.draft.clone()
        };
        let requests = draft.build(self.pipeline.card(), &diffusion::Limits::NONE, rand::random)?;
        Ok(requests.into_iter().next().expect("a draft is a picture at least. This is a bug."))
    }

    /// Makes one picture that is not counted, because the first one of a process is slower.
    ///
    /// # Errors
    /// The same as those of [`Rounds::measure`].
    pub(super) fn warm_up(&mut self, input: &OmniInput, steps: usize) -> Result<(), Error> {
        let trial = Trial::uncached(steps);
        self.render(&self.request(input, 0, &trial)?, &trial).map(|_| ())
    }

    fn render(&mut self, request: &ImageRequest, trial: &Trial) -> Result<Rendered, Error> {
        if let Some(calibration) = &trial.calibration {
            self.plans.replace(calibration.clone());
        }
        let mut state = self.pipeline.prepare(request, &Interrupt::default())?;
        for warning in self.pipeline.warnings(&state) {
            let warning = format!("{}, {} steps: {warning}", trial.name, trial.steps);
            if !self.warnings.contains(&warning) {
                self.warnings.push(warning);
            }
        }
        let started = Instant::now();
        let mut steps = Vec::with_capacity(trial.steps);
        for _ in 0..request.params.num_evaluations() {
            steps.extend(self.pipeline.step(&mut [&mut state], &Interrupt::default())?);
        }
        // The device may still be running when the last step returns.
        state.latents().device().synchronize().map_err(|err| PipelineError::Model(err.to_string()))?;
        let denoise = started.elapsed();
        Ok(Rendered { image: self.pipeline.decode(state, &Interrupt::default())?, steps, denoise })
    }

    fn save(&self, picture: &Rendered, i: usize, steps: usize, trial: &Trial) -> Result<(), Error> {
        match &self.images {
            Some(folder) => images::save(&picture.image, &images::path(folder, i, steps, &trial.name)),
            None => Ok(()),
        }
    }
}

/// Compares a picture with the reference.
fn compare(reference: &Rendered, picture: &Rendered, trial: &Trial) -> Result<PictureScore, Error> {
    let ssim = ssim(&reference.image, &picture.image).map_err(|err| Error::Flag(format!("SSIM: {err}")))?;
    let share = picture.steps.len() as f64 / reference.steps.len() as f64;
    Ok(PictureScore {
        denoise_ms: milliseconds(picture.denoise),
        speedup: reference.denoise.as_secs_f64() / picture.denoise.as_secs_f64(),
        psnr: psnr(&reference.image, &picture.image),
        ssim,
        gmsd: gmsd(&reference.image, &picture.image),
        computed: share * summary::computed(&picture.steps),
        runs: if trial.config.is_some() { summary::runs(&picture.steps) } else { Vec::new() },
    })
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_picture_lands_with_its_own_trial() {
        let pipeline = omni::Omni::builder().build().unwrap().into_pipeline();
        let (plans, draft, warnings) = (Plans::default(), RequestDraft::default(), Vec::new());
        let mut rounds = Rounds { pipeline, plans, draft, seed: 0, images: None, warnings };
        let trial = |name: &str, steps, json: Option<&str>| {
            let config = json.map(|json| serde_json::from_str(json).unwrap());
            Trial { name: name.into(), config, ..Trial::uncached(steps) }
        };
        let trials = [
            trial("half", 4, Some(r#"{"steps_computation_mask": "1001", "scm_steps_policy": "static"}"#)),
            trial("lossless", 4, Some(r#"{"quality": "lossless"}"#)),
            trial("no mask", 3, Some(r#"{"scm_steps_mask_policy": "fast"}"#)),
            trial("1 step", 1, None),
            Trial { sampler: Some(Sampler::Heun), ..trial("heun", 2, None) },
        ];
        let ticks = std::cell::Cell::new(0);
        // Two rounds, of which the second begins with another trial.
        let prompts = ["a fox on a green background", "a house"].map(OmniInput::from);
        let measured = rounds.measure(&prompts, 4, &trials, || ticks.set(ticks.get() + 1)).unwrap();
        assert_eq!((ticks.get(), measured.uncached_ms.len()), (2 * 6, 2));
        for round in 0..2 {
            let [half, lossless, _, one_step, heun] = [0, 1, 2, 3, 4].map(|trial| &measured.pictures[trial][round]);
            assert_eq!((half.runs[0].decisions.as_str(), half.computed), ("1CC1", 0.5));
            assert!(half.psnr.is_some_and(|psnr| psnr < 40.0));
            assert_eq!((lossless.psnr, lossless.computed), (None, 1.0));
            assert!((lossless.ssim - 1.0).abs() < 1e-6);
            assert!(one_step.runs.is_empty() && one_step.computed == 0.25 && one_step.psnr.is_some());
            assert!(heun.computed == 0.75 && heun.psnr.is_some(), "three runs of the transformer in two steps");
        }
        // Two warnings, each once: there is no mask of three steps, and nothing can be reused.
        assert_eq!(rounds.warnings.len(), 2, "{:?}", rounds.warnings);
    }
}
