//! Serialization of a configuration, as the keys that [`CacheOverrides`](crate::CacheOverrides) reads.

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::{CacheConfig, MaskSource};

impl Serialize for CacheConfig {
    /// Writes every key except unset ones; under plans, only their aim.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.planned {
            Some(aim) => aim.serialize(serializer),
            // The serializer that serde derives as an inherent function (`remote = "Self"`).
            None => CacheConfig::serialize(self, serializer),
        }
    }
}

impl Serialize for MaskSource {
    /// Writes an object of the keys that define the mask.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self {
            MaskSource::Policy(policy) => map.serialize_entry("scm_steps_mask_policy", policy)?,
            MaskSource::Bins { compute, cache } => {
                map.serialize_entry("scm_compute_bins", compute)?;
                map.serialize_entry("scm_cache_bins", cache)?;
            }
            MaskSource::Steps(mask) => map.serialize_entry("steps_computation_mask", &mask.to_string())?,
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CacheOverrides;

    #[test]
    fn what_is_written_reads_the_same() {
        for json in [
            "{}",
            r#"{"quality": "balanced"}"#,
            r#"{"Fn_compute_blocks": 8, "Bn_compute_blocks": 2, "max_warmup_steps": 0, "warmup_interval": 2,
                "max_cached_steps": 5, "max_continuous_cached_steps": -1, "residual_diff_threshold": 0.125,
                "max_accumulated_residual_diff_threshold": 2.5, "segment_threshold_factors": [1.0, 0.5],
                "enable_taylorseer": true, "enable_encoder_taylorseer": false, "taylorseer_order": 2, "taylorseer_in_sigma": true,
                "taylorseer_cache_type": "hidden_states", "scm_steps_mask_policy": "fast",
                "scm_steps_policy": "static", "force_refresh_step_hint": 7, "force_refresh_step_policy": "repeat",
                "cfg_diff_compute_separate": false, "branches_agree": true, "compute_last_step": true,
                "num_inference_steps": 28}"#,
            r#"{"scm_compute_bins": [6, 1], "scm_cache_bins": [2, 3]}"#,
            r#"{"steps_computation_mask": "110101"}"#,
        ] {
            let overrides: CacheOverrides = serde_json::from_str(json).unwrap();
            let config = CacheConfig::default().overlaid(&overrides).unwrap();
            let written = serde_json::to_string(&config).unwrap();
            assert_eq!(serde_json::from_str::<CacheConfig>(&written).unwrap(), config, "{written}");
        }
    }

    #[test]
    fn what_plans_are_to_reach_reads_the_same() {
        for aim in [crate::Aim::Psnr(45.5), crate::Aim::Budget(0.25)] {
            let config = CacheConfig { planned: Some(aim), ..CacheConfig::default() };
            let written = serde_json::to_string(&config).unwrap();
            assert_eq!(serde_json::from_str::<CacheConfig>(&written).unwrap(), config, "{written}");
        }
    }
}
