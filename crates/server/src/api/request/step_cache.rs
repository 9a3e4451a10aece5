//! A request's own step cache settings.

use cache::{CacheConfig, CacheOverrides, ConfigError, Preset};
use diffusion::InvalidRequest;

use super::given::Given;
use crate::api::error::ApiError;

/// Parses a request's `cache` field: `"off"`, a preset's name, or keys that override `base`.
pub(crate) fn request_config(given: Given, base: Option<&CacheConfig>) -> Result<CacheConfig, ApiError> {
    match &given {
        Given::Text(word) if word == "off" => Ok(Preset::Lossless.config()),
        Given::Text(word) => {
            let quality = Preset::named(word).ok_or_else(|| {
                let names: Vec<_> = Preset::NAMED.iter().map(|(name, _)| *name).collect();
                let bound = format!("be \"off\", one of {}, or an object of settings", names.join(", "));
                InvalidRequest::new("cache", bound, format!("{word:?}"))
            })?;
            Ok(base.map_or_else(|| quality.config(), |base| base.preset(quality)))
        }
        Given::Settings(json) => {
            let overrides: CacheOverrides = serde_json::from_str(json)
                .map_err(|err| InvalidRequest::new("cache", "be an object of settings", err))?;
            let base = base.cloned().unwrap_or_default();
            Ok(base.overlaid(&overrides).map_err(invalid)?)
        }
        other => {
            Err(ApiError::WrongType(InvalidRequest::new("cache", "be \"off\", a preset's name or an object", other)))
        }
    }
}

/// Checks a request's settings against the model's lists of blocks.
pub(crate) fn check_blocks(config: &CacheConfig, num_blocks: &[usize]) -> Result<(), ApiError> {
    Ok(config.validate(num_blocks).map_err(invalid)?)
}

/// The error for a key, which is the field that the client sees.
fn invalid(err: ConfigError) -> InvalidRequest {
    match err {
        ConfigError::Invalid { key, bound, given } => InvalidRequest::new(key, bound, given),
        ConfigError::UnknownKey { ref key, ref near, known } => {
            let bound = if near.is_empty() { known } else { near }.join(", ");
            InvalidRequest::new("cache", format!("have only known keys, such as {bound}"), key)
        }
    }
}

#[cfg(test)]
mod tests {
    use cache::Aim;
    use serde_json::{Value, json};

    use super::*;
    use crate::api::request::{json, vocabulary};

    fn given(value: Value) -> Given {
        json::of_value(json!({"cache": value})).take(&vocabulary::CACHE).unwrap().unwrap()
    }

    #[test]
    fn a_word_or_an_object_over_the_operators_settings() {
        let base = CacheConfig { max_warmup_steps: 8, ..CacheConfig::default() };
        let config = |value| request_config(given(value), Some(&base)).unwrap();
        assert!(config(json!("off")).never_reuses());
        assert_eq!(config(json!("fast")), Preset::Fast.config());
        let planned = CacheConfig { planned: Some(Aim::Budget(0.9)), ..CacheConfig::default() };
        for fast in [json!("fast"), json!({"quality": "fast"})] {
            assert_eq!(request_config(given(fast), Some(&planned)).unwrap().planned, Some(Aim::Psnr(45.0)));
        }
        let own = config(json!({"residual_diff_threshold": 0.1}));
        assert_eq!((own.residual_diff_threshold, own.max_warmup_steps), (0.1, 8));
        assert_eq!(request_config(given(json!({})), None).unwrap(), CacheConfig::default());
    }

    #[test]
    fn a_bad_setting_names_the_key() {
        let message = |value| request_config(given(value), None).unwrap_err().to_string();
        let zero = message(json!({"Fn_compute_blocks": 0}));
        assert!(zero.starts_with("`Fn_compute_blocks` must be") && zero.ends_with("Given: 0"), "{zero}");
        assert!(message(json!({"warmups": 1})).ends_with("Given: warmups"));
        assert!(message(json!("quick")).starts_with("`cache` must be \"off\", one of lossless, high"));
        for other in [json!(3), json!([]), json!({"warmups": "x".repeat(70_000)})] {
            assert!(message(other).starts_with("`cache` must be"));
        }
    }
}
