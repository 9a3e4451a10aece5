//! The settings of the cache, under cache-dit's names and with the defaults of the users' guide.

use serde::{Deserialize, Serialize, Serializer};

use crate::calibrated::Aim;
use crate::{ConfigError, MaskSource, Stream};

/// Maximum number of steps in custom bins: ten times the maximum of a request.
pub(crate) const MAX_BIN_STEPS: usize = 10_000;
/// Maximum TaylorSeer order. Already the third overshoots on skips of several steps.
pub(crate) const MAX_TAYLORSEER_ORDER: usize = 4;

/// The settings for caching a model's middle blocks. [`Default`] is what the guide calls the default.
///
/// On the wire `Fn_compute_blocks` and `Bn_compute_blocks` are capitalised as in cache-dit. The other names are those
/// of the fields, and -1 stands for a limit of `None`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(remote = "Self")]
pub struct CacheConfig {
    /// Fn: leading blocks that always run; the change of their residual decides a step. At least 1.
    #[serde(rename = "Fn_compute_blocks")]
    pub fn_compute_blocks: usize,
    /// Bn: trailing blocks that always run, also on a forecast.
    #[serde(rename = "Bn_compute_blocks")]
    pub bn_compute_blocks: usize,
    /// Length of the warmup: of its steps, every `warmup_interval`th is computed.
    pub max_warmup_steps: usize,
    /// Stride of the computed steps in the warmup; the steps between are decided like any other.
    pub warmup_interval: usize,
    /// Maximum number of reused steps of a branch.
    #[serde(serialize_with = "limit")]
    pub max_cached_steps: Option<usize>,
    /// Maximum number of reused steps in a row; 0 reuses none.
    #[serde(serialize_with = "limit")]
    pub max_continuous_cached_steps: Option<usize>,
    /// A step is reused if its diff is below this. 0 reuses no step; 1 or more reuses all, unmeasured.
    pub residual_diff_threshold: f64,
    /// Once a branch's diffs add up to this, it reuses no further step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_accumulated_residual_diff_threshold: Option<f64>,
    /// Factors on `residual_diff_threshold`, one per segment (list of blocks); 1 if missing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub segment_threshold_factors: Vec<f64>,
    /// Forecast by TaylorSeer instead of reusing the newest residual unchanged.
    pub enable_taylorseer: bool,
    /// The same for the text stream; `None` follows `enable_taylorseer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable_encoder_taylorseer: Option<bool>,
    /// TaylorSeer's order: the number of derivatives.
    pub taylorseer_order: usize,
    /// TaylorSeer's variable: the noise level (sigma) in place of the step's index.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub taylorseer_in_sigma: bool,
    /// The quantity that TaylorSeer forecasts.
    pub taylorseer_cache_type: CacheType,
    /// SCM: which steps must be computed (`scm_steps_mask_policy`, `steps_computation_mask`, or
    /// `scm_compute_bins` with `scm_cache_bins`).
    #[serde(flatten)]
    pub steps_computation_mask: Option<MaskSource>,
    /// What the mask means for the other steps (`scm_steps_policy`).
    #[serde(rename = "scm_steps_policy")]
    pub steps_computation_policy: StepsPolicy,
    /// Reset the cache of all branches after this many denoising steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub force_refresh_step_hint: Option<usize>,
    /// Whether the reset happens once or repeatedly.
    pub force_refresh_step_policy: RefreshPolicy,
    /// Whether the unconditional branch measures its own diff or uses the conditional branch's.
    pub cfg_diff_compute_separate: bool,
    /// Whether both branches decide together, by the larger diff.
    pub branches_agree: bool,
    /// Whether the last step is always computed.
    pub compute_last_step: bool,
    /// The aim of calibrated plans. It replaces all other settings, which then keep their defaults. The owner of the
    /// model holds the plans.
    #[serde(skip)]
    pub planned: Option<Aim>,
    /// Accepted because the guide has it. Each request's own step count applies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_inference_steps: Option<usize>,
}

/// The quantity that a TaylorSeer stream stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheType {
    /// The residual of the middle blocks: the forecast is added to their input.
    Residual,
    /// The output of the middle blocks: the forecast replaces their input.
    HiddenStates,
}

/// The treatment of steps outside the mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepsPolicy {
    /// Decided like any step without a mask.
    Dynamic,
    /// Reused regardless of its diff and the limits.
    Static,
}

/// How often a forced refresh happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefreshPolicy {
    /// Once per request.
    Once,
    /// Every `force_refresh_step_hint` steps.
    Repeat,
}

impl Default for CacheConfig {
    fn default() -> Self {
        CacheConfig {
            fn_compute_blocks: 1,
            bn_compute_blocks: 0,
            max_warmup_steps: 4,
            warmup_interval: 1,
            max_cached_steps: None,
            max_continuous_cached_steps: Some(3),
            residual_diff_threshold: 0.24,
            max_accumulated_residual_diff_threshold: None,
            segment_threshold_factors: Vec::new(),
            enable_taylorseer: false,
            enable_encoder_taylorseer: None,
            taylorseer_order: 1,
            taylorseer_in_sigma: false,
            taylorseer_cache_type: CacheType::Residual,
            steps_computation_mask: None,
            steps_computation_policy: StepsPolicy::Dynamic,
            force_refresh_step_hint: None,
            force_refresh_step_policy: RefreshPolicy::Once,
            cfg_diff_compute_separate: true,
            branches_agree: false,
            compute_last_step: false,
            planned: None,
            num_inference_steps: None,
        }
    }
}

impl CacheConfig {
    /// Checks every bound, for a model whose segments (lists of blocks) have `num_blocks` blocks.
    ///
    /// # Errors
    /// The first key outside its bound.
    pub fn validate(&self, num_blocks: &[usize]) -> Result<(), ConfigError> {
        self.check()?;
        let factors = self.segment_threshold_factors.len();
        if factors > num_blocks.len() {
            let bound = format!("have at most {} entries, one a list of blocks of the model", num_blocks.len());
            return Err(ConfigError::invalid("segment_threshold_factors", bound, format!("{factors} entries")));
        }
        for &blocks in num_blocks {
            if self.fn_compute_blocks > blocks {
                let bound = format!("be at most {blocks}, the model's blocks");
                return Err(ConfigError::invalid("Fn_compute_blocks", bound, self.fn_compute_blocks));
            }
            if self.always_computed_blocks() > blocks {
                let bound = format!(
                    "be at most {}, the model's {blocks} blocks less the {} of `Fn_compute_blocks`",
                    blocks - self.fn_compute_blocks,
                    self.fn_compute_blocks
                );
                return Err(ConfigError::invalid("Bn_compute_blocks", bound, self.bn_compute_blocks));
            }
        }
        Ok(())
    }

    /// Checks every bound that does not depend on the model.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        at_least_one("Fn_compute_blocks", self.fn_compute_blocks)?;
        at_least_one("warmup_interval", self.warmup_interval)?;
        at_least_one("force_refresh_step_hint", self.force_refresh_step_hint.unwrap_or(1))?;
        at_least_one("num_inference_steps", self.num_inference_steps.unwrap_or(1))?;
        let threshold = self.residual_diff_threshold;
        if !(threshold.is_finite() && threshold >= 0.0) {
            let bound = "be a number of at least 0 (0 reuses no step, 1 and above every one)";
            return Err(ConfigError::invalid("residual_diff_threshold", bound, threshold));
        }
        above_zero("max_accumulated_residual_diff_threshold", self.max_accumulated_residual_diff_threshold.as_slice())?;
        above_zero("segment_threshold_factors", &self.segment_threshold_factors)?;
        if self.taylorseer_order > MAX_TAYLORSEER_ORDER {
            let bound = format!("be between 0 and {MAX_TAYLORSEER_ORDER}");
            return Err(ConfigError::invalid("taylorseer_order", bound, self.taylorseer_order));
        }
        self.check_mask()
    }

    fn check_mask(&self) -> Result<(), ConfigError> {
        let Some(source) = &self.steps_computation_mask else { return Ok(()) };
        let (key, given) = match source {
            MaskSource::Policy(_) => return Ok(()),
            MaskSource::Bins { compute, cache } => {
                let sum = compute.iter().chain(cache).fold(0_usize, |sum, &bin| sum.saturating_add(bin));
                if !(1..=MAX_BIN_STEPS).contains(&sum) {
                    let bound =
                        format!("add up, with those of `scm_cache_bins`, to between 1 and {MAX_BIN_STEPS} steps");
                    return Err(ConfigError::invalid("scm_compute_bins", bound, sum));
                }
                ("scm_compute_bins", format!("{compute:?}"))
            }
            MaskSource::Steps(mask) if mask.is_empty() => {
                return Err(ConfigError::invalid("steps_computation_mask", "name at least one step", "none"));
            }
            MaskSource::Steps(mask) => ("steps_computation_mask", mask.to_string()),
        };
        if self.steps_computation_policy == StepsPolicy::Static && !source.computes_first() {
            let bound = "start with a computed step when `scm_steps_policy` is \"static\"";
            return Err(ConfigError::invalid(key, bound, given));
        }
        Ok(())
    }

    /// Blocks of each segment that always run: Fn + Bn, or none under a plan.
    pub fn always_computed_blocks(&self) -> usize {
        match self.planned {
            Some(_) => 0,
            None => self.fn_compute_blocks.saturating_add(self.bn_compute_blocks),
        }
    }

    /// Whether no step of any request can be reused, so that nothing need be stored or measured.
    pub fn never_reuses(&self) -> bool {
        let static_mask = self.steps_computation_mask.is_some() && self.steps_computation_policy == StepsPolicy::Static;
        let closed = self.residual_diff_threshold <= 0.0
            || self.max_cached_steps == Some(0)
            || self.max_continuous_cached_steps == Some(0);
        closed && !static_mask && self.planned.is_none()
    }

    /// Whether TaylorSeer forecasts this stream.
    pub fn taylorseer_enabled(&self, stream: Stream) -> bool {
        match stream {
            Stream::Hidden => self.enable_taylorseer,
            Stream::Encoder => self.enable_encoder_taylorseer.unwrap_or(self.enable_taylorseer),
        }
    }

    /// The quantity stored for this stream: always the residual without TaylorSeer.
    pub fn cache_type(&self, stream: Stream) -> CacheType {
        if self.taylorseer_enabled(stream) { self.taylorseer_cache_type } else { CacheType::Residual }
    }

    /// Maximum number of residuals of this stream that a branch holds at a time.
    pub fn max_stored_residuals(&self, stream: Stream) -> usize {
        if self.taylorseer_enabled(stream) { self.taylorseer_order + 1 } else { 1 }
    }

    /// The factor on the threshold in the `segment`th segment.
    pub fn segment_threshold_factor(&self, segment: usize) -> f64 {
        self.segment_threshold_factors.get(segment).copied().unwrap_or(1.0)
    }
}

fn at_least_one(key: &'static str, value: usize) -> Result<(), ConfigError> {
    if value == 0 { Err(ConfigError::invalid(key, "be at least 1", value)) } else { Ok(()) }
}

fn above_zero(key: &'static str, values: &[f64]) -> Result<(), ConfigError> {
    match values.iter().find(|value| !(value.is_finite() && **value > 0.0)) {
        Some(value) => Err(ConfigError::invalid(key, "be above 0", value)),
        None => Ok(()),
    }
}

/// Serializes no limit as -1.
fn limit<S: Serializer>(limit: &Option<usize>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i64(limit.map_or(-1, |limit| limit as i64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StepMask;

    /// The error message for a model with these segments; empty if the settings are valid.
    fn refusal(change: impl FnOnce(&mut CacheConfig), num_blocks: &[usize]) -> String {
        let mut config = CacheConfig::default();
        change(&mut config);
        config.validate(num_blocks).map_or_else(|err| err.to_string(), |()| String::new())
    }

    #[test]
    fn the_defaults_fit_any_model() {
        assert_eq!(refusal(|_| {}, &[1]), "");
        assert_eq!(refusal(|_| {}, &[5, 20]), "");
    }

    #[test]
    fn the_shortest_segment_bounds_the_blocks() {
        assert_eq!(refusal(|c| (c.fn_compute_blocks, c.bn_compute_blocks) = (4, 2), &[20, 6]), "");
        assert_eq!(
            refusal(|c| (c.fn_compute_blocks, c.bn_compute_blocks) = (4, 4), &[20, 6]),
            "`Bn_compute_blocks` must be at most 2, the model's 6 blocks less the 4 of `Fn_compute_blocks`. Given: 4"
        );
        assert_eq!(
            refusal(|c| c.fn_compute_blocks = 8, &[6]),
            "`Fn_compute_blocks` must be at most 6, the model's blocks. Given: 8"
        );
        assert_eq!(
            refusal(|c| c.segment_threshold_factors = vec![1.0, 3.0], &[60]),
            "`segment_threshold_factors` must have at most 1 entries, one a list of blocks of the model. \
             Given: 2 entries"
        );
    }

    #[test]
    fn every_bound_names_its_key_and_the_value_given() {
        for (change, message) in [
            ((|c| c.fn_compute_blocks = 0) as fn(&mut CacheConfig), "`Fn_compute_blocks` must be at least 1. Given: 0"),
            (|c| c.warmup_interval = 0, "`warmup_interval` must be at least 1. Given: 0"),
            (|c| c.force_refresh_step_hint = Some(0), "`force_refresh_step_hint` must be at least 1. Given: 0"),
            (
                |c| c.residual_diff_threshold = f64::NAN,
                "`residual_diff_threshold` must be a number of at least 0 (0 reuses no step, 1 and above every one). \
                 Given: NaN",
            ),
            (
                |c| c.max_accumulated_residual_diff_threshold = Some(0.0),
                "`max_accumulated_residual_diff_threshold` must be above 0. Given: 0",
            ),
            (
                |c| c.segment_threshold_factors = vec![1.0, -3.0],
                "`segment_threshold_factors` must be above 0. Given: -3",
            ),
            (|c| c.taylorseer_order = 5, "`taylorseer_order` must be between 0 and 4. Given: 5"),
        ] {
            assert_eq!(refusal(change, &[60, 60]), message);
        }
    }

    #[test]
    fn a_static_mask_starts_with_a_computed_step() {
        let with = |mask: MaskSource, policy| {
            move |c: &mut CacheConfig| (c.steps_computation_mask, c.steps_computation_policy) = (Some(mask), policy)
        };
        let steps = MaskSource::Steps("0110".parse::<StepMask>().unwrap());
        assert_eq!(refusal(with(steps.clone(), StepsPolicy::Dynamic), &[60]), "");
        assert_eq!(
            refusal(with(steps, StepsPolicy::Static), &[60]),
            "`steps_computation_mask` must start with a computed step when `scm_steps_policy` is \"static\". Given: 0110"
        );
        let bins = MaskSource::Bins { compute: vec![0, 2], cache: vec![3] };
        assert_eq!(
            refusal(with(bins, StepsPolicy::Static), &[60]),
            "`scm_compute_bins` must start with a computed step when `scm_steps_policy` is \"static\". Given: [0, 2]"
        );
        let huge = MaskSource::Bins { compute: vec![usize::MAX, 2], cache: vec![3] };
        assert!(refusal(with(huge, StepsPolicy::Dynamic), &[60]).contains("between 1 and 10000 steps"));
    }
}
