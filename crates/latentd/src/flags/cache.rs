//! The flags of the step cache, under the guide's names, and the configuration that they give.

use cache::{CacheConfig, CacheOverrides, ConfigError};
use clap::builder::BoolishValueParser;
use serde_json::{Map, Value};

use super::calibrated::Calibrated;
use crate::error::Error;

/// The kind of step cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum CacheBackend {
    /// Every step is computed.
    #[default]
    None,
    /// DBCache, TaylorSeer and SCM.
    #[value(name = "cache_dit", alias = "cache-dit")]
    CacheDit,
    /// Plans made from measurements of the model (`latentd cache calibrate`).
    Calibrated,
}

/// The flags of the step cache, as typed.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Step cache")]
pub struct CacheFlags {
    /// The step cache: `cache_dit` has the guide's defaults, `calibrated` the built-in model's plans, or learns them,
    /// without `--cache-config`
    #[arg(long, value_enum, value_name = "NAME", env = "LATENTD_CACHE_BACKEND")]
    pub cache_backend: Option<CacheBackend>,
    /// The cache's settings as JSON, or @FILE, e.g. '{"residual_diff_threshold":0.12}' or '{"quality":"balanced"}'; of
    /// `calibrated` e.g. '{"psnr":45}', '{"plan":"@plan.json","budget":0.4}' or '{"learn":32}'
    #[arg(long, value_name = "JSON|@FILE", env = "LATENTD_CACHE_CONFIG")]
    pub cache_config: Option<String>,
    /// Leading blocks that every step computes
    #[arg(long, value_name = "N", allow_negative_numbers = true, env = "LATENTD_CACHE_DIT_FN_COMPUTE_BLOCKS")]
    pub cache_dit_fn_compute_blocks: Option<i64>,
    /// Trailing blocks that every step computes
    #[arg(long, value_name = "N", allow_negative_numbers = true, env = "LATENTD_CACHE_DIT_BN_COMPUTE_BLOCKS")]
    pub cache_dit_bn_compute_blocks: Option<i64>,
    /// Steps at the start that are computed
    #[arg(long, value_name = "N", allow_negative_numbers = true, env = "LATENTD_CACHE_DIT_MAX_WARMUP_STEPS")]
    pub cache_dit_max_warmup_steps: Option<i64>,
    /// Reuse below this relative change of the first blocks' residual
    #[arg(long, value_name = "R", allow_negative_numbers = true, env = "LATENTD_CACHE_DIT_RESIDUAL_DIFF_THRESHOLD")]
    pub cache_dit_residual_diff_threshold: Option<f64>,
    /// Most steps in a row that reuse; -1 for any number
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        env = "LATENTD_CACHE_DIT_MAX_CONTINUOUS_CACHED_STEPS"
    )]
    pub cache_dit_max_continuous_cached_steps: Option<i64>,
    /// Forecast the residual instead of repeating it
    #[arg(long, value_parser = BoolishValueParser::new(), env = "LATENTD_CACHE_DIT_ENABLE_TAYLORSEER")]
    pub cache_dit_enable_taylorseer: bool,
    /// Order of the forecast
    #[arg(long, value_name = "N", allow_negative_numbers = true, env = "LATENTD_CACHE_DIT_TAYLORSEER_ORDER")]
    pub cache_dit_taylorseer_order: Option<i64>,
    /// Steps to compute by a mask: slow, medium, fast or ultra
    #[arg(long, value_name = "NAME", env = "LATENTD_CACHE_DIT_SCM_STEPS_MASK_POLICY")]
    pub cache_dit_scm_steps_mask_policy: Option<String>,
    /// What a step that the mask leaves free does: dynamic or static
    #[arg(long, value_name = "NAME", env = "LATENTD_CACHE_DIT_SCM_STEPS_POLICY")]
    pub cache_dit_scm_steps_policy: Option<String>,
}

impl CacheFlags {
    /// The cache configuration of the flags. `--cache-config` overrides the guide's defaults, and the single flags
    /// override both. `None` computes every step.
    ///
    /// # Errors
    /// A key is unknown or outside its bound, the JSON is malformed, a file is missing, or the settings are of a cache
    /// that `--cache-backend` does not turn on.
    pub fn resolve(&self) -> Result<Option<CacheConfig>, Error> {
        if let Some(calibrated) = self.calibrated()? {
            return Ok(Some(calibrated.config));
        }
        let single = self.single_flags();
        if self.cache_backend != Some(CacheBackend::CacheDit) {
            return match (&self.cache_config, single.keys().next()) {
                (None, None) => Ok(None),
                (Some(text), None) if parsed(&read_config(text)?)?.are_of_plans() => {
                    Err(Error::Flag("`--cache-config` with keys of plans needs `--cache-backend calibrated`".into()))
                }
                (Some(_), _) => Err(Error::Flag("`--cache-config` needs `--cache-backend cache_dit`".into())),
                (None, Some(key)) => Err(Error::Flag(format!("`{}` needs `--cache-backend cache_dit`", flag_of(key)))),
            };
        }
        let mut config = CacheConfig::default();
        if let Some(text) = &self.cache_config {
            let overrides = parsed(&read_config(text)?)?;
            config = config.overlaid(&overrides).map_err(|err| Error::Flag(format!("`--cache-config`: {err}")))?;
        }
        let overrides = parsed(&Value::Object(single).to_string())?;
        config.overlaid(&overrides).map(Some).map_err(|err| self.told(&err))
    }

    /// The settings of the flags if the backend is `calibrated`.
    ///
    /// # Errors
    /// The same as those of [`CacheFlags::resolve`].
    pub fn calibrated(&self) -> Result<Option<Calibrated>, Error> {
        if self.cache_backend != Some(CacheBackend::Calibrated) {
            return Ok(None);
        }
        match (&self.cache_config, self.single_flags().keys().next()) {
            (_, Some(key)) => Err(Error::Flag(format!("`{}` needs `--cache-backend cache_dit`", flag_of(key)))),
            (Some(text), None) => Calibrated::read(&parsed(&read_config(text)?)?).map(Some),
            (None, None) => Calibrated::read(&CacheOverrides::default()).map(Some),
        }
    }

    /// Converts a configuration error, naming the flag that set the key.
    pub(crate) fn told(&self, err: &ConfigError) -> Error {
        let flag = match self.single_flags().contains_key(err.key()) {
            true => flag_of(err.key()),
            false => "--cache-config".into(),
        };
        Error::Flag(format!("`{flag}`: {err}"))
    }

    /// The single flags as keys of the configuration.
    fn single_flags(&self) -> Map<String, Value> {
        let entries = [
            ("Fn_compute_blocks", self.cache_dit_fn_compute_blocks.map(Value::from)),
            ("Bn_compute_blocks", self.cache_dit_bn_compute_blocks.map(Value::from)),
            ("max_warmup_steps", self.cache_dit_max_warmup_steps.map(Value::from)),
            ("residual_diff_threshold", self.cache_dit_residual_diff_threshold.map(Value::from)),
            ("max_continuous_cached_steps", self.cache_dit_max_continuous_cached_steps.map(Value::from)),
            ("enable_taylorseer", self.cache_dit_enable_taylorseer.then_some(Value::Bool(true))),
            ("taylorseer_order", self.cache_dit_taylorseer_order.map(Value::from)),
            ("scm_steps_mask_policy", self.cache_dit_scm_steps_mask_policy.clone().map(Value::from)),
            ("scm_steps_policy", self.cache_dit_scm_steps_policy.clone().map(Value::from)),
        ];
        entries.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
    }
}

/// The JSON itself, or the contents of the file named after `@`.
fn read_config(text: &str) -> Result<String, Error> {
    match text.strip_prefix('@') {
        None => Ok(text.to_owned()),
        Some(path) => {
            let text = std::fs::read_to_string(path);
            let text = text.map_err(|source| Error::File { action: "read", path: path.to_owned(), source })?;
            // Some editors begin a file with a byte order mark.
            Ok(text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned())
        }
    }
}

/// Parses the JSON of `--cache-config` or of the single flags.
fn parsed(json: &str) -> Result<CacheOverrides, Error> {
    serde_json::from_str(json).map_err(|err| Error::Flag(format!("`--cache-config` is not a JSON object: {err}")))
}

/// The single flag that sets `key`.
fn flag_of(key: &str) -> String {
    format!("--cache-dit-{}", key.to_lowercase().replace('_', "-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(config: Option<&str>) -> CacheFlags {
        CacheFlags {
            cache_backend: Some(CacheBackend::CacheDit),
            cache_config: config.map(str::to_owned),
            ..CacheFlags::default()
        }
    }

    #[test]
    fn single_flags_stand_over_the_json_and_both_over_the_defaults() {
        assert_eq!(CacheFlags::default().resolve().unwrap(), None);
        assert_eq!(flags(None).resolve().unwrap(), Some(CacheConfig::default()));
        let json = r#"{"residual_diff_threshold": 0.12, "max_warmup_steps": 6}"#;
        let config = CacheFlags { cache_dit_max_warmup_steps: Some(8), ..flags(Some(json)) }.resolve().unwrap();
        let config = config.unwrap();
        assert_eq!((config.residual_diff_threshold, config.max_warmup_steps), (0.12, 8));
    }

    #[test]
    fn what_does_not_fit_the_model_is_told_by_the_flag_that_said_it() {
        let told = |flags: CacheFlags| {
            let config = flags.resolve().unwrap().unwrap();
            flags.told(&config.validate(&[12]).unwrap_err()).to_string()
        };
        let single = CacheFlags { cache_dit_fn_compute_blocks: Some(99), ..flags(None) };
        assert!(told(single).starts_with("`--cache-dit-fn-compute-blocks`: `Fn_compute_blocks` must be at most 12"));
        let json = flags(Some(r#"{"Fn_compute_blocks": 99}"#));
        assert!(told(json).starts_with("`--cache-config`: `Fn_compute_blocks` must be at most 12"));
    }

    #[test]
    fn a_file_may_begin_with_a_byte_order_mark() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "\u{feff}{\"max_warmup_steps\": 8}").unwrap();
        let config = flags(Some(&format!("@{}", file.path().display()))).resolve().unwrap().unwrap();
        assert_eq!(config.max_warmup_steps, 8);
    }

    #[test]
    fn nothing_is_accepted_and_ignored() {
        let message = |flags: CacheFlags| flags.resolve().unwrap_err().to_string();
        let tuned = CacheFlags { cache_dit_fn_compute_blocks: Some(1), ..CacheFlags::default() };
        assert_eq!(message(tuned), "`--cache-dit-fn-compute-blocks` needs `--cache-backend cache_dit`");
        let config = CacheFlags { cache_config: Some("{}".into()), ..CacheFlags::default() };
        assert_eq!(message(config), "`--cache-config` needs `--cache-backend cache_dit`");
        assert!(message(flags(Some("{"))).starts_with("`--cache-config` is not a JSON object: "));
        assert!(message(flags(Some(r#"{"max_warmup_stepz": 1}"#))).contains("Near: max_warmup_steps"));
        assert!(message(flags(Some("@/no/such/file"))).starts_with("cannot read `/no/such/file`"));
        for json in [r#"{"psnr": 45}"#, r#"{"plan": "@plan.json", "budget": 0.4}"#, r#"{"learn": 9}"#] {
            let config = CacheFlags { cache_config: Some(json.into()), ..CacheFlags::default() };
            assert_eq!(message(config), "`--cache-config` with keys of plans needs `--cache-backend calibrated`");
        }
        assert!(message(flags(Some("[]"))).starts_with("`--cache-config` is not a JSON object: "));
        let negative = CacheFlags { cache_dit_fn_compute_blocks: Some(0), ..flags(None) };
        let expected =
            "`--cache-dit-fn-compute-blocks`: `Fn_compute_blocks` must be a whole number of at least 1. Given: 0";
        assert_eq!(message(negative), expected);
    }
}
