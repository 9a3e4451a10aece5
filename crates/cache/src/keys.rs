//! The keys of a cache configuration, each with the kind of its value.

use serde::Deserialize;

use crate::kinds::{Bins, ConditionalFirst, Count, Flag, Limit, Mask, Number, Numbers, SeparateBranches, Word};
use crate::kinds::{given, nullable};
use crate::{CacheType, MaskSource, Preset, RefreshPolicy, ScmPolicy, StepsPolicy};

/// Every key, in the order of the documentation. `None` if it is not given, `Some(None)` if it is `null`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Keys {
    #[serde(deserialize_with = "given::<Word<_>, _>")]
    pub(crate) quality: Option<Preset>,
    #[serde(rename = "Fn_compute_blocks", deserialize_with = "given::<Count<1>, _>")]
    pub(crate) fn_compute_blocks: Option<usize>,
    #[serde(rename = "Bn_compute_blocks", deserialize_with = "given::<Count<0>, _>")]
    pub(crate) bn_compute_blocks: Option<usize>,
    #[serde(deserialize_with = "given::<Count<0>, _>")]
    pub(crate) max_warmup_steps: Option<usize>,
    #[serde(deserialize_with = "given::<Count<1>, _>")]
    pub(crate) warmup_interval: Option<usize>,
    #[serde(deserialize_with = "given::<Limit, _>")]
    pub(crate) max_cached_steps: Option<Option<usize>>,
    #[serde(deserialize_with = "given::<Limit, _>")]
    pub(crate) max_continuous_cached_steps: Option<Option<usize>>,
    #[serde(deserialize_with = "given::<Number, _>")]
    pub(crate) residual_diff_threshold: Option<f64>,
    #[serde(deserialize_with = "nullable::<Number, _>")]
    pub(crate) max_accumulated_residual_diff_threshold: Option<Option<f64>>,
    #[serde(deserialize_with = "given::<Numbers, _>")]
    pub(crate) segment_threshold_factors: Option<Vec<f64>>,
    #[serde(deserialize_with = "given::<Flag, _>")]
    pub(crate) enable_taylorseer: Option<bool>,
    #[serde(deserialize_with = "nullable::<Flag, _>")]
    pub(crate) enable_encoder_taylorseer: Option<Option<bool>>,
    #[serde(deserialize_with = "given::<Count<0>, _>")]
    pub(crate) taylorseer_order: Option<usize>,
    #[serde(deserialize_with = "given::<Flag, _>")]
    pub(crate) taylorseer_in_sigma: Option<bool>,
    #[serde(deserialize_with = "given::<Word<_>, _>")]
    pub(crate) taylorseer_cache_type: Option<CacheType>,
    #[serde(deserialize_with = "nullable::<Word<_>, _>")]
    pub(crate) scm_steps_mask_policy: Option<Option<ScmPolicy>>,
    #[serde(deserialize_with = "given::<Word<_>, _>")]
    pub(crate) scm_steps_policy: Option<StepsPolicy>,
    #[serde(deserialize_with = "nullable::<Mask, _>")]
    pub(crate) steps_computation_mask: Option<Option<MaskSource>>,
    /// cache-dit's own name for what the guide calls `scm_steps_policy`.
    #[serde(deserialize_with = "given::<Word<_>, _>")]
    pub(crate) steps_computation_policy: Option<StepsPolicy>,
    #[serde(deserialize_with = "nullable::<Bins, _>")]
    pub(crate) scm_compute_bins: Option<Option<Vec<usize>>>,
    #[serde(deserialize_with = "nullable::<Bins, _>")]
    pub(crate) scm_cache_bins: Option<Option<Vec<usize>>>,
    #[serde(deserialize_with = "nullable::<Count<1>, _>")]
    pub(crate) force_refresh_step_hint: Option<Option<usize>>,
    #[serde(deserialize_with = "given::<Word<_>, _>")]
    pub(crate) force_refresh_step_policy: Option<RefreshPolicy>,
    #[serde(rename = "enable_separate_cfg", deserialize_with = "nullable::<SeparateBranches, _>")]
    _enable_separate_cfg: Option<Option<()>>,
    #[serde(rename = "cfg_compute_first", deserialize_with = "nullable::<ConditionalFirst, _>")]
    _cfg_compute_first: Option<Option<()>>,
    #[serde(deserialize_with = "given::<Flag, _>")]
    pub(crate) cfg_diff_compute_separate: Option<bool>,
    #[serde(deserialize_with = "given::<Flag, _>")]
    pub(crate) branches_agree: Option<bool>,
    #[serde(deserialize_with = "given::<Flag, _>")]
    pub(crate) compute_last_step: Option<bool>,
    #[serde(deserialize_with = "nullable::<Count<1>, _>")]
    pub(crate) num_inference_steps: Option<Option<usize>>,
    #[serde(deserialize_with = "given::<Number, _>")]
    pub(crate) budget: Option<f64>,
    #[serde(deserialize_with = "given::<Number, _>")]
    pub(crate) psnr: Option<f64>,
}
