//! Keys of a cache configuration as given by the user, and their meaning.

use serde::Deserialize;
use serde::de::{self, Deserializer};

use crate::calibrated::{Aim, CalibratedSettings};
use crate::keys::Keys;
use crate::names::names;
use crate::object::Object;
use crate::{CacheConfig, ConfigError, MaskSource, Preset, StepsPolicy};

/// Some keys of a cache configuration with their values, from `--cache-config`, a file or a request's body.
/// [`CacheConfig::overlaid`] interprets them.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct CacheOverrides(Object);

impl CacheOverrides {
    /// Every key, in the order of the documentation.
    pub fn keys() -> &'static [&'static str] {
        names::<Keys>()
    }

    /// Whether there are keys, and all of them are settings of calibrated plans.
    pub fn are_of_plans(&self) -> bool {
        let of_plans = |key: &str| names::<CalibratedSettings>().contains(&key);
        self.0.keys().next().is_some() && self.0.keys().all(of_plans)
    }

    /// Reads the keys as settings of calibrated plans.
    ///
    /// # Errors
    /// An unknown key, or a value of the wrong kind or outside its bound.
    pub fn calibrated(&self) -> Result<CalibratedSettings, ConfigError> {
        let settings: CalibratedSettings = self.0.read()?;
        self.aim(settings.budget, settings.psnr)?;
        if settings.plan.is_some() && settings.learn.is_some() {
            return Err(self.0.refusal("learn", "be absent where `plan` is given"));
        }
        Ok(settings)
    }

    /// The aim of plans, if given.
    fn aim(&self, budget: Option<f64>, psnr: Option<f64>) -> Result<Option<Aim>, ConfigError> {
        let (key, aim) = match (budget, psnr) {
            (None, None) => return Ok(None),
            (Some(_), Some(_)) => return Err(self.0.refusal("psnr", "be absent where `budget` is given")),
            (Some(share), None) => ("budget", Aim::Budget(share)),
            (None, Some(promise)) => ("psnr", Aim::Psnr(promise)),
        };
        aim.check().map_err(|bound| self.0.refusal(key, bound))?;
        Ok(Some(aim))
    }

    /// The policy of the steps outside the mask. It has two key names.
    fn steps_policy(&self, keys: &Keys) -> Result<Option<StepsPolicy>, ConfigError> {
        match (keys.scm_steps_policy, keys.steps_computation_policy) {
            (Some(one), Some(other)) if one != other => {
                let one = serde_json::to_string(&one).expect("it is a word. This is a bug.");
                let bound = format!("say the same as `scm_steps_policy`, its other name: {one}");
                Err(self.0.refusal("steps_computation_policy", bound))
            }
            (one, other) => Ok(one.or(other)),
        }
    }

    /// The mask given by the keys, at most one. It replaces any configured mask; `Some(None)` clears it.
    fn mask(&self, keys: &Keys) -> Result<Option<Option<MaskSource>>, ConfigError> {
        let policy = keys.scm_steps_mask_policy.flatten().map(MaskSource::Policy);
        let steps = keys.steps_computation_mask.clone().flatten();
        let (compute, cache) = (keys.scm_compute_bins.clone().flatten(), keys.scm_cache_bins.clone().flatten());
        let given = [
            ("scm_steps_mask_policy", policy.is_some()),
            ("steps_computation_mask", steps.is_some()),
            ("scm_compute_bins", compute.is_some()),
        ];
        let mut given = given.into_iter().filter(|(_, is_given)| *is_given);
        if let (Some((first, _)), Some((second, _))) = (given.next(), given.next()) {
            return Err(self.0.refusal(second, format!("not be given beside `{first}`: both name a mask")));
        }
        let bins = match (compute, cache) {
            (Some(compute), Some(cache)) => Some(MaskSource::Bins { compute, cache }),
            (Some(_), None) => return Err(self.0.refusal("scm_compute_bins", "come with `scm_cache_bins`")),
            (None, Some(_)) => return Err(self.0.refusal("scm_cache_bins", "come with `scm_compute_bins`")),
            (None, None) => None,
        };
        let names = ["scm_steps_mask_policy", "steps_computation_mask", "scm_compute_bins", "scm_cache_bins"];
        let is_named = names.iter().any(|name| self.0.has(name));
        Ok(is_named.then(|| policy.or(steps).or(bins)))
    }
}

impl CacheConfig {
    /// Returns this configuration with the given keys in place of its own. A `quality` among them first replaces
    /// everything, whatever its position. A key of `null` clears its setting if it can be cleared.
    ///
    /// # Errors
    /// The first key that is unknown, or whose value has the wrong type or is outside its bound.
    pub fn overlaid(&self, overrides: &CacheOverrides) -> Result<CacheConfig, ConfigError> {
        let keys: Keys = overrides.0.read()?;
        let mut config = self.clone();
        // cache-dit's rules and plans exclude each other: the given keys decide between them.
        if !overrides.0.keys().all(|key| ["quality", "budget", "psnr"].contains(&key)) {
            config.planned = None;
        }
        if let Some(quality) = keys.quality {
            config = config.preset(quality);
        }
        let aim = overrides.aim(keys.budget, keys.psnr)?;
        if aim.is_some() && config.planned.is_none() {
            let key = if keys.budget.is_some() { "budget" } else { "psnr" };
            let bound = "be absent, or alone, on a server with --cache-backend calibrated";
            return Err(overrides.0.refusal(key, bound));
        }
        config.planned = aim.or(config.planned);
        set(&mut config.steps_computation_policy, overrides.steps_policy(&keys)?);
        set(&mut config.steps_computation_mask, overrides.mask(&keys)?);
        config.set(keys);
        config.check()?;
        Ok(config)
    }

    /// The meaning of a preset on a server with this configuration. Under plans it is the PSNR that the preset
    /// promises.
    pub fn preset(&self, quality: Preset) -> CacheConfig {
        match (self.planned, quality.psnr()) {
            (Some(_), Some(promise)) => CacheConfig { planned: Some(Aim::Psnr(promise)), ..CacheConfig::default() },
            _ => quality.config(),
        }
    }

    /// Applies the keys that do not depend on each other.
    fn set(&mut self, keys: Keys) {
        set(&mut self.fn_compute_blocks, keys.fn_compute_blocks);
        set(&mut self.bn_compute_blocks, keys.bn_compute_blocks);
        set(&mut self.max_warmup_steps, keys.max_warmup_steps);
        set(&mut self.warmup_interval, keys.warmup_interval);
        set(&mut self.max_cached_steps, keys.max_cached_steps);
        set(&mut self.max_continuous_cached_steps, keys.max_continuous_cached_steps);
        set(&mut self.residual_diff_threshold, keys.residual_diff_threshold);
        set(&mut self.max_accumulated_residual_diff_threshold, keys.max_accumulated_residual_diff_threshold);
        set(&mut self.segment_threshold_factors, keys.segment_threshold_factors);
        set(&mut self.enable_taylorseer, keys.enable_taylorseer);
        set(&mut self.enable_encoder_taylorseer, keys.enable_encoder_taylorseer);
        set(&mut self.taylorseer_order, keys.taylorseer_order);
        set(&mut self.taylorseer_in_sigma, keys.taylorseer_in_sigma);
        set(&mut self.taylorseer_cache_type, keys.taylorseer_cache_type);
        set(&mut self.force_refresh_step_hint, keys.force_refresh_step_hint);
        set(&mut self.force_refresh_step_policy, keys.force_refresh_step_policy);
        set(&mut self.cfg_diff_compute_separate, keys.cfg_diff_compute_separate);
        set(&mut self.branches_agree, keys.branches_agree);
        set(&mut self.compute_last_step, keys.compute_last_step);
        set(&mut self.num_inference_steps, keys.num_inference_steps);
    }
}

fn set<T>(place: &mut T, given: Option<T>) {
    if let Some(value) = given {
        *place = value;
    }
}

impl<'de> Deserialize<'de> for CacheConfig {
    /// Reads what [`CacheConfig`] is written as: an object of keys over the defaults, or what plans are to reach.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let overrides = CacheOverrides::deserialize(deserializer)?;
        let mut keys = overrides.0.keys().peekable();
        let is_planned = keys.peek().is_some() && keys.all(|key| ["budget", "psnr"].contains(&key));
        let planned = is_planned.then_some(Aim::Budget(1.0));
        let base = CacheConfig { planned, ..CacheConfig::default() };
        base.overlaid(&overrides).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CacheType, RefreshPolicy, ScmPolicy, StepMask};

    fn read(json: &str) -> Result<CacheConfig, String> {
        let overrides: CacheOverrides = serde_json::from_str(json).map_err(|err| err.to_string())?;
        CacheConfig::default().overlaid(&overrides).map_err(|err| err.to_string())
    }

    fn refusal(json: &str) -> String {
        read(json).unwrap_err()
    }

    #[test]
    fn a_budget_is_for_a_calibrated_cache_and_any_other_key_ends_it() {
        let told = refusal(r#"{"psnr": 45}"#);
        assert!(told.contains("`psnr` must be absent, or alone"), "{told}");
        let told = refusal(r#"{"budget": 0.4}"#);
        assert!(
            told.contains("`budget` must be absent, or alone, on a server with --cache-backend calibrated"),
            "{told}"
        );
        let config = CacheConfig { planned: Some(Aim::Budget(0.9)), ..CacheConfig::default() };
        let overlaid =
            |json: &str| config.overlaid(&serde_json::from_str(json).unwrap()).map_err(|err| err.to_string());
        assert_eq!(overlaid("{}").unwrap(), config);
        let both = overlaid(r#"{"budget": 0.4, "psnr": 45}"#).unwrap_err().to_string();
        assert_eq!(both, "`psnr` must be absent where `budget` is given. Given: 45");
        assert_eq!(overlaid(r#"{"budget": 0.4}"#).unwrap().planned, Some(Aim::Budget(0.4)));
        assert_eq!(overlaid(r#"{"max_warmup_steps": 4}"#).unwrap(), CacheConfig::default());
        assert_eq!(overlaid(r#"{"quality": "high"}"#).unwrap().planned, Some(Aim::Psnr(55.0)));
        assert_eq!(overlaid(r#"{"quality": "lossless"}"#).unwrap(), Preset::Lossless.config());
        let with_more = overlaid(r#"{"quality": "high", "max_warmup_steps": 4}"#).unwrap();
        assert_eq!(with_more, CacheConfig { max_warmup_steps: 4, ..Preset::High.config() });
        let err = overlaid(r#"{"budget": 0}"#).unwrap_err();
        assert_eq!(err, "`budget` must be above 0 and at most 1, a share of the steps. Given: 0");
        assert_eq!(overlaid(r#"{"psnr": 45}"#).unwrap().planned, Some(Aim::Psnr(45.0)));
        assert_eq!(overlaid(r#"{"psnr": -1}"#).unwrap_err(), "`psnr` must be from 0 to 100, in dB. Given: -1");
        assert_eq!(serde_json::to_string(&config).unwrap(), r#"{"budget":0.9}"#);
    }

    /// The guide's "Custom Configuration" and "Example Script", as JSON.
    #[test]
    fn the_guides_examples_are_read() {
        assert_eq!(read("{}").unwrap(), CacheConfig::default());
        let custom = r#"{"Fn_compute_blocks": 1, "Bn_compute_blocks": 0, "max_warmup_steps": 4,
                         "residual_diff_threshold": 0.12}"#;
        let expected = CacheConfig { residual_diff_threshold: 0.12, ..CacheConfig::default() };
        assert_eq!(read(custom).unwrap(), expected);
        let hybrid = r#"{"Fn_compute_blocks": 1, "Bn_compute_blocks": 0, "max_warmup_steps": 4,
                         "residual_diff_threshold": 0.24, "max_continuous_cached_steps": 3,
                         "enable_taylorseer": false, "taylorseer_order": 1,
                         "scm_steps_mask_policy": null, "scm_steps_policy": "dynamic"}"#;
        assert_eq!(read(hybrid).unwrap(), CacheConfig::default());
    }

    #[test]
    fn every_key_means_something_and_is_checked() {
        for &key in CacheOverrides::keys() {
            let err = refusal(&format!(r#"{{"{key}": {{}}}}"#));
            assert!(err.starts_with(&format!("`{key}` must ")) && err.ends_with("Given: {…}"), "{err}");
        }
    }

    #[test]
    fn every_key_takes_effect() {
        let bins = r#"{"scm_compute_bins": [5, 1, 1], "scm_cache_bins": [1, 1]}"#;
        let all = r#"{"Fn_compute_blocks": 8, "Bn_compute_blocks": 2, "max_warmup_steps": 6, "warmup_interval": 2,
            "max_cached_steps": 9, "max_continuous_cached_steps": -1, "residual_diff_threshold": 1,
            "max_accumulated_residual_diff_threshold": 0.5, "segment_threshold_factors": [1, 3.0],
            "enable_taylorseer": true, "enable_encoder_taylorseer": false, "taylorseer_order": 2,
            "taylorseer_in_sigma": true, "taylorseer_cache_type": "hidden_states", "steps_computation_mask": [1, 0, 1],
            "steps_computation_policy": "static", "force_refresh_step_hint": 7, "force_refresh_step_policy": "repeat",
            "enable_separate_cfg": true, "cfg_compute_first": false, "cfg_diff_compute_separate": false,
            "branches_agree": true, "compute_last_step": true, "num_inference_steps": 50}"#;
        let expected = CacheConfig {
            fn_compute_blocks: 8,
            bn_compute_blocks: 2,
            max_warmup_steps: 6,
            warmup_interval: 2,
            max_cached_steps: Some(9),
            max_continuous_cached_steps: None,
            residual_diff_threshold: 1.0,
            max_accumulated_residual_diff_threshold: Some(0.5),
            segment_threshold_factors: vec![1.0, 3.0],
            enable_taylorseer: true,
            enable_encoder_taylorseer: Some(false),
            taylorseer_order: 2,
            taylorseer_in_sigma: true,
            taylorseer_cache_type: CacheType::HiddenStates,
            steps_computation_mask: Some(MaskSource::Steps(StepMask::from_steps([true, false, true]))),
            steps_computation_policy: StepsPolicy::Static,
            force_refresh_step_hint: Some(7),
            force_refresh_step_policy: RefreshPolicy::Repeat,
            cfg_diff_compute_separate: false,
            branches_agree: true,
            compute_last_step: true,
            planned: None,
            num_inference_steps: Some(50),
        };
        assert_eq!(read(all).unwrap(), expected);
        let bins = read(bins).unwrap().steps_computation_mask.unwrap();
        assert_eq!(bins.mask(8).unwrap().to_string(), "11111010");
        let mask = |json| read(json).unwrap().steps_computation_mask.unwrap();
        assert_eq!(mask(r#"{"scm_steps_mask_policy": "fast"}"#), MaskSource::Policy(ScmPolicy::Fast));
        assert_eq!(mask(r#"{"steps_computation_mask": "fast"}"#), MaskSource::Policy(ScmPolicy::Fast));
        assert_eq!(mask(r#"{"steps_computation_mask": "101"}"#), expected.steps_computation_mask.unwrap());
    }

    #[test]
    #[allow(clippy::too_many_lines, reason = "a table of cases")]
    fn a_refusal_names_the_key_the_bound_and_the_value() {
        let no_key = "`fn_compute_blocks` is not a key of the cache configuration. \
                      Near: Fn_compute_blocks, Bn_compute_blocks";
        let masks = "`steps_computation_mask` must be a list of 0 and 1, a string of them, \
                     or one of \"slow\", \"medium\", \"fast\", \"ultra\". Given: ";
        for (json, message) in [
            (r#"{"fn_compute_blocks": 1}"#, no_key),
            (r#"{"Fn_compute_blocks": 0}"#, "`Fn_compute_blocks` must be a whole number of at least 1. Given: 0"),
            (r#"{"Fn_compute_blocks": 1.0}"#, "`Fn_compute_blocks` must be a whole number of at least 1. Given: 1.0"),
            (r#"{"Fn_compute_blocks": "1"}"#, "`Fn_compute_blocks` must be a whole number of at least 1. Given: \"1\""),
            (
                r#"{"max_cached_steps": -2}"#,
                "`max_cached_steps` must be a whole number of at least 0, or -1 for no limit. Given: -2",
            ),
            (r#"{"residual_diff_threshold": "0.1"}"#, "`residual_diff_threshold` must be a number. Given: \"0.1\""),
            (
                r#"{"residual_diff_threshold": -0.1}"#,
                "`residual_diff_threshold` must be a number of at least 0 (0 reuses no step, 1 and above every one). \
                 Given: -0.1",
            ),
            (r#"{"enable_taylorseer": 1}"#, "`enable_taylorseer` must be true or false. Given: 1"),
            (
                r#"{"scm_steps_mask_policy": "quick"}"#,
                "`scm_steps_mask_policy` must be one of \"slow\", \"medium\", \"fast\", \"ultra\". Given: \"quick\"",
            ),
            (
                r#"{"scm_steps_policy": "fixed"}"#,
                "`scm_steps_policy` must be one of \"dynamic\", \"static\". Given: \"fixed\"",
            ),
            (r#"{"steps_computation_mask": [1, 0, 2]}"#, &format!("{masks}[1, 0, 2]")),
            (r#"{"steps_computation_mask": "10x"}"#, &format!("{masks}\"10x\"")),
            (r#"{"steps_computation_mask": []}"#, "`steps_computation_mask` must name at least one step. Given: none"),
            (
                r#"{"steps_computation_mask": [0, 1], "scm_steps_policy": "static"}"#,
                "`steps_computation_mask` must start with a computed step when `scm_steps_policy` is \"static\". Given: 01",
            ),
            (
                r#"{"scm_steps_mask_policy": "slow", "steps_computation_mask": [1]}"#,
                "`steps_computation_mask` must not be given beside `scm_steps_mask_policy`: both name a mask. Given: [1]",
            ),
            (r#"{"scm_compute_bins": [5]}"#, "`scm_compute_bins` must come with `scm_cache_bins`. Given: [5]"),
            (r#"{"scm_cache_bins": [5]}"#, "`scm_cache_bins` must come with `scm_compute_bins`. Given: [5]"),
            (
                r#"{"scm_compute_bins": [5, -1], "scm_cache_bins": [2]}"#,
                "`scm_compute_bins` must be a list of whole numbers of at least 0. Given: [5, -1]",
            ),
            (
                r#"{"scm_steps_policy": "dynamic", "steps_computation_policy": "static"}"#,
                "`steps_computation_policy` must say the same as `scm_steps_policy`, its other name: \"dynamic\". \
                 Given: \"static\"",
            ),
            (
                r#"{"enable_separate_cfg": false}"#,
                "`enable_separate_cfg` must be true or null: each branch has a state of its own (see `branches_agree`). \
                 Given: false",
            ),
            (
                r#"{"quality": "best"}"#,
                "`quality` must be one of \"lossless\", \"high\", \"balanced\", \"fast\", \"ultra\". Given: \"best\"",
            ),
        ] {
            assert_eq!(refusal(json), message);
        }
        assert!(
            refusal(r#"{"taylorseer_order": 1, "taylorseer_order": 2}"#)
                .starts_with("`taylorseer_order` is given twice")
        );
        assert!(refusal(r#"{"prompt": 1}"#).contains("The keys are: quality, Fn_compute_blocks, "));
        assert!(refusal("[]").contains("an object of cache keys"));
        assert!(refusal(r#"{"Fn_compute_blocks": 1"#).contains("EOF"), "bad JSON is an error");
    }

    #[test]
    fn overrides_replace_keep_and_clear() {
        let operator = read(r#"{"scm_steps_mask_policy": "fast", "max_warmup_steps": 2}"#).unwrap();
        let overlaid = |json: &str| operator.overlaid(&serde_json::from_str(json).unwrap()).unwrap();
        assert_eq!(overlaid("{}"), operator);
        // cache-dit cannot clear a mask with a partial configuration (its None means "keep").
        assert_eq!(overlaid(r#"{"scm_steps_mask_policy": null}"#).steps_computation_mask, None);
        let steps = overlaid(r#"{"steps_computation_mask": [1, 0]}"#);
        assert_eq!(steps.steps_computation_mask, Some(MaskSource::Steps("10".parse().unwrap())));
        assert_eq!(steps.max_warmup_steps, 2);
        let preset = overlaid(r#"{"max_warmup_steps": 5, "quality": "fast"}"#);
        assert_eq!(preset, CacheConfig { max_warmup_steps: 5, ..Preset::Fast.config() });
    }
}
