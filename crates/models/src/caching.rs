//! How the steps of one request are cached: by rules, along a plan, or not at all.

use cache::{Aim, ConfigError, Kind, Learning, Planning, Progress, RunPlan, RunSpec};
use diffusion::{ImageRequest, ImageSize, InvalidRequest, PipelineError, Sampler, Sigmas};

use crate::cost::CostModel;
use crate::dit::Dit;
use crate::family::Family;
use crate::no_plan::NoPlan;
use crate::planned::{PlannedRun, other_guidance};
use crate::residuals::RequestResiduals;

/// Warning for a request with cache-dit's settings, if the operator's settings are plans.
const RULES_FOR_PLANS: &str = "the request has `cache` settings of cache_dit: its rules replace the server's plans and promise no \
    quality";

/// Caching of one request: its step cache or plan, if it has one.
#[derive(Default)]
pub(crate) struct Cached {
    pub(crate) residuals: Option<RequestResiduals>,
    pub(crate) planned: Option<PlannedRun>,
    /// Set if plans are learnt from the request.
    pub(crate) learning: Option<Kind>,
    /// Noise levels of the plan.
    pub(crate) sigmas: Option<Sigmas>,
    pub(crate) warnings: Vec<String>,
}

/// Decides on the caching of requests of one model.
pub(crate) struct Caching<'a, F> {
    pub(crate) family: &'a F,
    pub(crate) costs: &'a CostModel,
    /// Digest of the transformer's files.
    pub(crate) model: &'a str,
}

impl<F: Family> Caching<'_, F> {
    /// Returns the caching of a request. Its own settings take precedence over the operator's.
    pub(crate) fn of(&self, request: &ImageRequest, branches: usize) -> Result<Cached, PipelineError> {
        let own = request.cache.as_ref();
        let Some(config) = own.or(self.costs.cache.as_ref()) else { return Ok(Cached::default()) };
        config.validate(&self.family.card().num_blocks).map_err(|err| match err {
            ConfigError::Invalid { key, bound, given } => InvalidRequest::new(key, bound, given),
            ConfigError::UnknownKey { key, .. } => InvalidRequest::new("cache", "have only known keys", key),
        })?;
        let segments = self.family.dit().segments();
        if let Some(aim) = config.planned {
            return Ok(match self.plan(request, aim) {
                Ok((planning, plan)) => Cached {
                    sigmas: Some(self.planned_sigmas(&plan, &planning, request.params.size)),
                    planned: Some(PlannedRun::new(plan, segments, branches)),
                    warnings: [
                        other_guidance(&planning.calibration, request.params.guidance),
                        planning.out_of_reach(request.params.num_inference_steps, aim),
                    ]
                    .into_iter()
                    .flatten()
                    .collect(),
                    ..Cached::default()
                },
                Err(why) => self.whole(request, why),
            });
        }
        let (residuals, warnings) = RequestResiduals::new(config, request.params.num_evaluations(), segments, branches);
        let residuals = residuals.map(|residuals| residuals.at_levels(&self.evaluated_levels(request)));
        let mut warnings: Vec<_> = warnings.iter().map(ToString::to_string).collect();
        if self.costs.cache.as_ref().is_some_and(|config| config.planned.is_some()) && !config.never_reuses() {
            warnings.push(RULES_FOR_PLANS.to_owned());
        }
        Ok(Cached { residuals, warnings, ..Cached::default() })
    }

    /// Returns the noise level of each of a request's evaluations.
    fn evaluated_levels(&self, request: &ImageRequest) -> Vec<f64> {
        let params = &request.params;
        let sigmas = self.family.sigmas(params.num_inference_steps, params.size.image_seq_len());
        let level = |evaluation| f64::from(sigmas.sigma(params.sampler.level(evaluation)));
        (0..params.num_evaluations()).map(level).collect()
    }

    /// Caching of a request without a plan: all steps are computed, and plans may be learnt from it.
    fn whole(&self, request: &ImageRequest, why: NoPlan) -> Cached {
        let params = &request.params;
        let (guidance, steps) = (params.guidance.two_pass_scale(), params.num_inference_steps);
        let kind = Kind { guidance, steps, tokens: params.size.image_seq_len() };
        // Under a mask the latents do not follow the velocities.
        let may_learn = why.is_for_want_of_plans() && request.mask.is_none() && Learning::takes(kind);
        let (learning, why) = match self.costs.plans.progress_of(kind) {
            Some(Progress { pictures, of }) if may_learn => (
                Some(kind),
                format!(
                    "plans are being learnt from this request and others with {steps} steps, this size and this guidance \
                     ({pictures} of {of} so far)"
                ),
            ),
            Some(_) if why.is_for_want_of_plans() && !Learning::takes(kind) => {
                (None, format!("plans are learnt from requests with {} steps. Given: {steps}", Learning::STEPS))
            }
            _ => (None, why.to_string()),
        };
        Cached { learning, warnings: vec![format!("computed without a cache: {why}")], ..Cached::default() }
    }

    /// Returns the plan of a request.
    ///
    /// # Errors
    /// There is no plan for the request, with the reason.
    fn plan(&self, request: &ImageRequest, aim: Aim) -> Result<(Planning, RunPlan), NoPlan> {
        let params = &request.params;
        if params.sampler != Sampler::Euler {
            return Err(NoPlan::Sampler(params.sampler));
        }
        let guided = params.guidance.branches().len() > 1;
        let run = RunSpec { model: self.model, steps: params.num_inference_steps, guided };
        self.costs.plans.plan(run, aim).map_err(NoPlan::Unplanned)
    }

    /// Returns the noise levels of a request's steps, which include those of the calibrated runs at its size.
    fn planned_sigmas(&self, plan: &RunPlan, planning: &Planning, size: ImageSize) -> Sigmas {
        let steps = planning.calibration.num_inference_steps;
        let whole = self.family.sigmas(steps, size.image_seq_len());
        Sigmas::of_levels(plan.sigmas(whole.as_slice()))
    }
}
