//! A configuration as the keys that [`CacheOverrides`](crate::CacheOverrides) reads.

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::overrides::{CACHE_TYPES, REFRESH_POLICIES, STEPS_POLICIES};
use crate::{Aim, CacheConfig, MaskSource, ScmPolicy};

impl Serialize for CacheConfig {
    /// Every key, but for those that say nothing.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(aim) = &self.planned {
            match aim {
                Aim::Budget(budget) => map.serialize_entry("budget", budget)?,
                Aim::Psnr(psnr) => map.serialize_entry("psnr", psnr)?,
            }
            return map.end();
        }
        map.serialize_entry("Fn_compute_blocks", &self.fn_compute_blocks)?;
        map.serialize_entry("Bn_compute_blocks", &self.bn_compute_blocks)?;
        map.serialize_entry("max_warmup_steps", &self.max_warmup_steps)?;
        map.serialize_entry("warmup_interval", &self.warmup_interval)?;
        map.serialize_entry("max_cached_steps", &limit(self.max_cached_steps))?;
        map.serialize_entry("max_continuous_cached_steps", &limit(self.max_continuous_cached_steps))?;
        map.serialize_entry("residual_diff_threshold", &self.residual_diff_threshold)?;
        if let Some(threshold) = self.max_accumulated_residual_diff_threshold {
            map.serialize_entry("max_accumulated_residual_diff_threshold", &threshold)?;
        }
        if !self.segment_threshold_factors.is_empty() {
            map.serialize_entry("segment_threshold_factors", &self.segment_threshold_factors)?;
        }
        map.serialize_entry("enable_taylorseer", &self.enable_taylorseer)?;
        if let Some(enabled) = self.enable_encoder_taylorseer {
            map.serialize_entry("enable_encoder_taylorseer", &enabled)?;
        }
        map.serialize_entry("taylorseer_order", &self.taylorseer_order)?;
        map.serialize_entry("taylorseer_cache_type", name(&CACHE_TYPES, self.taylorseer_cache_type))?;
        match &self.steps_computation_mask {
            None => {}
            Some(MaskSource::Policy(policy)) => {
                map.serialize_entry("scm_steps_mask_policy", name(&ScmPolicy::NAMED, *policy))?;
            }
            Some(MaskSource::Bins { compute, cache }) => {
                map.serialize_entry("scm_compute_bins", compute)?;
                map.serialize_entry("scm_cache_bins", cache)?;
            }
            Some(MaskSource::Steps(mask)) => map.serialize_entry("steps_computation_mask", &mask.to_string())?,
        }
        map.serialize_entry("scm_steps_policy", name(&STEPS_POLICIES, self.steps_computation_policy))?;
        if let Some(steps) = self.force_refresh_step_hint {
            map.serialize_entry("force_refresh_step_hint", &steps)?;
        }
        map.serialize_entry("force_refresh_step_policy", name(&REFRESH_POLICIES, self.force_refresh_step_policy))?;
        map.serialize_entry("cfg_diff_compute_separate", &self.cfg_diff_compute_separate)?;
        map.serialize_entry("branches_agree", &self.branches_agree)?;
        map.serialize_entry("compute_last_step", &self.compute_last_step)?;
        if let Some(steps) = self.num_inference_steps {
            map.serialize_entry("num_inference_steps", &steps)?;
        }
        map.end()
    }
}

/// -1 for no limit.
fn limit(limit: Option<usize>) -> i64 {
    limit.map_or(-1, |limit| limit as i64)
}

fn name<T: PartialEq>(named: &[(&'static str, T)], value: T) -> &'static str {
    let name = named.iter().find(|(_, known)| *known == value).map(|(name, _)| *name);
    name.expect("every value has a name. This is a bug.")
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
                "enable_taylorseer": true, "enable_encoder_taylorseer": false, "taylorseer_order": 2,
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
}
