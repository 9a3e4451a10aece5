//! The keys of a cache configuration as someone typed them, and what they mean.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};

use crate::calibrated::Aim;
use crate::entry::Entry;
use crate::value::Value;
use crate::{CacheConfig, CacheType, ConfigError, MaskSource, Quality, RefreshPolicy, StepsPolicy};

/// What was typed: some keys of a cache configuration with their values, from `--cache-config`, a
/// file or a request's body. [`CacheConfig::overlaid`] says what it means.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CacheOverrides(Vec<(String, Value)>);

pub(crate) const CACHE_TYPES: [(&str, CacheType); 2] =
    [("residual", CacheType::Residual), ("hidden_states", CacheType::HiddenStates)];
pub(crate) const STEPS_POLICIES: [(&str, StepsPolicy); 2] =
    [("dynamic", StepsPolicy::Dynamic), ("static", StepsPolicy::Static)];
pub(crate) const REFRESH_POLICIES: [(&str, RefreshPolicy); 2] =
    [("once", RefreshPolicy::Once), ("repeat", RefreshPolicy::Repeat)];

impl CacheConfig {
    /// This configuration with the given keys in place of its own. A `quality` among them replaces
    /// all of it first, wherever it stands. A key of `null` clears what it can clear.
    ///
    /// # Errors
    /// The first key that does not exist, has a value of the wrong type or outside its bound.
    pub fn overlaid(&self, overrides: &CacheOverrides) -> Result<CacheConfig, ConfigError> {
        let mut config = self.clone();
        // The rules of cache-dit and plans exclude each other: the key that is given says which.
        if !overrides.0.iter().all(|(name, _)| ["quality", "budget", "psnr"].contains(&name.as_str())) {
            config.planned = None;
        }
        if let Some(value) = overrides.value("quality") {
            let quality = Entry::new("quality", value)?.one_of(&Quality::NAMED)?;
            config = config.preset(quality);
        }
        if let (Some(_), Some(psnr)) = (overrides.value("budget"), overrides.value("psnr")) {
            return Err(ConfigError::invalid("psnr", "be absent where `budget` is given", psnr));
        }
        let policies = (overrides.value("scm_steps_policy"), overrides.value("steps_computation_policy"));
        if let (Some(one), Some(other)) = policies
            && one != other
        {
            let bound = format!("say the same as `scm_steps_policy`, its other name: {one}");
            return Err(ConfigError::invalid("steps_computation_policy", bound, other));
        }
        let mut masks = MaskKeys::default();
        for (name, value) in &overrides.0 {
            config.set(Entry::new(name, value)?, &mut masks)?;
        }
        masks.apply(&mut config)?;
        config.check()?;
        Ok(config)
    }

    /// What a preset means on a server with this configuration: where that follows plans, the likeness that the word promises.
    pub fn preset(&self, quality: Quality) -> CacheConfig {
        match (self.planned, quality.psnr()) {
            (Some(_), Some(promise)) => CacheConfig { planned: Some(Aim::Psnr(promise)), ..CacheConfig::default() },
            _ => quality.config(),
        }
    }

    /// Sets one key, whatever the bounds that more than one key has a part in.
    fn set<'a>(&mut self, entry: Entry<'a>, masks: &mut MaskKeys<'a>) -> Result<(), ConfigError> {
        match entry.key {
            "quality" => {} // Done before all others.
            "budget" | "psnr" => {
                let number = entry.number()?;
                let aim = if entry.key == "budget" { Aim::Budget(number) } else { Aim::Psnr(number) };
                let Some(planned) = &mut self.planned else {
                    return Err(entry.invalid("be absent, or alone, on a server with --cache-backend calibrated"));
                };
                aim.check().map_err(|bound| entry.invalid(bound))?;
                *planned = aim;
            }
            "Fn_compute_blocks" => self.fn_compute_blocks = entry.count(1)?,
            "Bn_compute_blocks" => self.bn_compute_blocks = entry.count(0)?,
            "max_warmup_steps" => self.max_warmup_steps = entry.count(0)?,
            "warmup_interval" => self.warmup_interval = entry.count(1)?,
            "max_cached_steps" => self.max_cached_steps = entry.limit()?,
            "max_continuous_cached_steps" => self.max_continuous_cached_steps = entry.limit()?,
            "residual_diff_threshold" => self.residual_diff_threshold = entry.number()?,
            "max_accumulated_residual_diff_threshold" => {
                self.max_accumulated_residual_diff_threshold = entry.or_null(Entry::number)?;
            }
            "segment_threshold_factors" => self.segment_threshold_factors = entry.list("numbers", Entry::number)?,
            "enable_taylorseer" => self.enable_taylorseer = entry.flag()?,
            "enable_encoder_taylorseer" => self.enable_encoder_taylorseer = entry.or_null(Entry::flag)?,
            "taylorseer_order" => self.taylorseer_order = entry.count(0)?,
            "taylorseer_cache_type" => self.taylorseer_cache_type = entry.one_of(&CACHE_TYPES)?,
            // cache-dit's own name for what the guide calls `scm_steps_policy`.
            "scm_steps_policy" | "steps_computation_policy" => {
                self.steps_computation_policy = entry.one_of(&STEPS_POLICIES)?;
            }
            "scm_steps_mask_policy" | "steps_computation_mask" | "scm_compute_bins" | "scm_cache_bins" => {
                masks.add(entry);
            }
            "force_refresh_step_hint" => self.force_refresh_step_hint = entry.or_null(|entry| entry.count(1))?,
            "force_refresh_step_policy" => self.force_refresh_step_policy = entry.one_of(&REFRESH_POLICIES)?,
            "enable_separate_cfg" => {
                entry.only(true, "be true or null: each branch has a state of its own (see `branches_agree`)")?;
            }
            "cfg_compute_first" => entry.only(false, "be false or null: the conditional branch comes first")?,
            "cfg_diff_compute_separate" => self.cfg_diff_compute_separate = entry.flag()?,
            "branches_agree" => self.branches_agree = entry.flag()?,
            "compute_last_step" => self.compute_last_step = entry.flag()?,
            "num_inference_steps" => self.num_inference_steps = entry.or_null(|entry| entry.count(1))?,
            key => unreachable!("`{key}` is among the keys but means nothing. This is a bug."),
        }
        Ok(())
    }
}

/// The keys that name a mask, of which one may be given: they are told apart from a mask that was
/// configured before, which any of them replaces.
#[derive(Default)]
struct MaskKeys<'a> {
    given: bool,
    policy: Option<Entry<'a>>,
    steps: Option<Entry<'a>>,
    compute_bins: Option<Entry<'a>>,
    cache_bins: Option<Entry<'a>>,
}

impl<'a> MaskKeys<'a> {
    fn add(&mut self, entry: Entry<'a>) {
        self.given = true;
        let place = match entry.key {
            "scm_steps_mask_policy" => &mut self.policy,
            "steps_computation_mask" => &mut self.steps,
            "scm_compute_bins" => &mut self.compute_bins,
            _ => &mut self.cache_bins,
        };
        *place = (*entry.value != Value::Null).then_some(entry);
    }

    fn apply(self, config: &mut CacheConfig) -> Result<(), ConfigError> {
        let masks: Vec<_> = [self.policy, self.steps, self.compute_bins].into_iter().flatten().collect();
        if let [first, second, ..] = masks[..] {
            return Err(second.invalid(format!("not be given beside `{}`: both name a mask", first.key)));
        }
        let mask = match (masks.first(), self.cache_bins) {
            (Some(compute), Some(cache)) if compute.key == "scm_compute_bins" => {
                Some(MaskSource::Bins { compute: compute.bins()?, cache: cache.bins()? })
            }
            (Some(compute), None) if compute.key == "scm_compute_bins" => {
                return Err(compute.invalid("come with `scm_cache_bins`"));
            }
            (_, Some(cache)) => return Err(cache.invalid("come with `scm_compute_bins`")),
            (Some(mask), None) => Some(mask.mask()?),
            (None, None) => None,
        };
        if self.given {
            config.steps_computation_mask = mask;
        }
        Ok(())
    }
}

impl CacheOverrides {
    fn value(&self, key: &str) -> Option<&Value> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }
}

impl<'de> Deserialize<'de> for CacheOverrides {
    /// Reads any object; whether its keys exist is [`CacheConfig::overlaid`]'s question.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Entries)
    }
}

impl<'de> Deserialize<'de> for CacheConfig {
    /// Reads an object of keys over the defaults.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let overrides = CacheOverrides::deserialize(deserializer)?;
        CacheConfig::default().overlaid(&overrides).map_err(de::Error::custom)
    }
}

struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = CacheOverrides;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of cache keys")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<CacheOverrides, A::Error> {
        let mut entries: Vec<(String, Value)> = Vec::new();
        while let Some((key, value)) = map.next_entry()? {
            if entries.iter().any(|(known, _)| *known == key) {
                return Err(de::Error::custom(format!("`{key}` is given twice")));
            }
            entries.push((key, value));
        }
        Ok(CacheOverrides(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::KEYS;
    use crate::{ScmPolicy, StepMask};

    fn read(json: &str) -> Result<CacheConfig, String> {
        serde_json::from_str(json).map_err(|err| err.to_string())
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
        assert_eq!(overlaid(r#"{"quality": "lossless"}"#).unwrap(), Quality::Lossless.config());
        let with_more = overlaid(r#"{"quality": "high", "max_warmup_steps": 4}"#).unwrap();
        assert_eq!(with_more, CacheConfig { max_warmup_steps: 4, ..Quality::High.config() });
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
        for &key in KEYS {
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
            "taylorseer_cache_type": "hidden_states", "steps_computation_mask": [1, 0, 1],
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
        assert_eq!(preset, CacheConfig { max_warmup_steps: 5, ..Quality::Fast.config() });
    }
}
