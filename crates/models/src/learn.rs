//! Learning of plans from the full runs of requests.

use std::sync::Arc;

use cache::{Calibration, LearntRun, Plans, Progress};
use candle_core::Tensor;
use diffusion::{PipelineError, RgbImage};

use crate::device_error;
use crate::learning::{LearningRun, OnLearnt, sensitivity};
use crate::state::RequestState;

/// A request that plans are learnt from, without its latents.
pub(crate) struct About {
    /// The pipeline's class.
    pub(crate) class: String,
    /// Digest of the transformer's files.
    pub(crate) model: String,
    /// Noise levels of the request.
    sigmas: Vec<f64>,
}

impl About {
    /// Describes a request to the model with this class and digest.
    pub(crate) fn new(class: &str, model: &str, state: &RequestState) -> Self {
        let sigmas = state.sigmas.as_slice().iter().copied().map(f64::from).collect();
        About { class: class.into(), model: model.into(), sigmas }
    }
}

/// Learns from a run whose picture is finished. `decode` decodes other latents of the run, if their picture is to be
/// compared. Failures are only logged, because the picture itself is fine.
pub(crate) fn learn(
    plans: &Plans,
    on_learnt: &OnLearnt,
    (run, about): (&LearningRun, About),
    picture: &RgbImage,
    decode: impl FnOnce(&Tensor) -> Result<RgbImage, PipelineError>,
) {
    let kind = run.kind();
    match learn_from(plans, run, about, picture, decode) {
        Err(err) => tracing::warn!(%err, "nothing was learnt from a picture"),
        Ok(Some(calibration)) => {
            let (pictures, steps) = (calibration.pictures, kind.steps);
            tracing::info!(
                pictures,
                steps,
                guided = kind.is_guided(),
                "plans were learnt: steps are skipped from now on"
            );
            if let Some(on_learnt) = &on_learnt.0 {
                on_learnt(&calibration);
            }
        }
        Ok(None) => {
            if let Some(Progress { pictures, of }) = plans.progress(kind.is_guided()) {
                tracing::info!(guided = kind.is_guided(), "learning: {pictures} of {of} pictures");
            }
        }
    }
}

fn learn_from(
    plans: &Plans,
    run: &LearningRun,
    about: About,
    picture: &RgbImage,
    decode: impl FnOnce(&Tensor) -> Result<RgbImage, PipelineError>,
) -> Result<Option<Arc<Calibration>>, PipelineError> {
    let About { class, model, sigmas } = about;
    let gram = run.gram().map_err(device_error)?;
    let Some(missed) = run.missed(&gram, &sigmas).map_err(device_error)? else { return Ok(None) };
    let kind = run.kind();
    let other = plans.measures(kind).then(|| decode(&missed.latents)).transpose()?;
    let sensitivity = other.map(|other| sensitivity(picture, &other, &missed));
    // `Plans` fills in the plans after the last run.
    let (num_inference_steps, guidance) = (kind.steps, kind.guidance);
    let calibration = Calibration { class, model, num_inference_steps, guidance, pictures: 0, plans: Vec::new() };
    Ok(plans.learn(kind, LearntRun { gram, sensitivity }, &sigmas, calibration))
}
