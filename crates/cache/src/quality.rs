//! Presets that trade quality for speed.

use serde::{Deserialize, Serialize};

use crate::CacheConfig;

/// Presets of the cache, from no reuse to the fastest.
///
/// All but [`Lossless`](Preset::Lossless) warm up for three steps, forecast by TaylorSeer, and compute the last step.
/// The two CFG branches decide together, because otherwise their errors do not cancel in
/// `uncond + scale (cond - uncond)`. The presets differ in the threshold, in TaylorSeer's order and in how many steps
/// in a row may be reused.
///
/// The settings are the best of a hundred tried on the built-in model, by the distance of the pictures from the
/// uncached ones. `BENCHMARKS.md` has the gain and cost of each, beside what the same time buys with fewer steps.
/// `High` and `Balanced` were better than that at 20, 28 and 50 steps, `Fast` and `Ultra` only at 50.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// No step is reused: the picture equals the uncached one.
    Lossless,
    /// At most every other step is reused.
    High,
    /// At most two of three steps are reused, at the guide's default threshold.
    Balanced,
    /// At most three of four steps are reused, at a higher threshold.
    Fast,
    /// At most four of five steps are reused, at the same threshold, with a linear forecast.
    Ultra,
}

impl Preset {
    /// Every preset, with its name on the wire.
    pub const NAMED: [(&'static str, Preset); 5] = [
        ("lossless", Preset::Lossless),
        ("high", Preset::High),
        ("balanced", Preset::Balanced),
        ("fast", Preset::Fast),
        ("ultra", Preset::Ultra),
    ];

    /// The preset with this name.
    pub fn named(name: &str) -> Option<Preset> {
        Preset::NAMED.into_iter().find(|&(known, _)| known == name).map(|(_, quality)| quality)
    }

    /// The PSNR in dB that the preset promises on a calibrated model, see [`Aim::Psnr`](crate::Aim::Psnr). `None` if no
    /// step may be skipped.
    pub fn psnr(self) -> Option<f64> {
        match self {
            Preset::Lossless => None,
            Preset::High => Some(55.0),
            Preset::Balanced => Some(50.0),
            Preset::Fast => Some(45.0),
            Preset::Ultra => Some(40.0),
        }
    }

    /// The configuration of the preset on a model without calibration.
    pub fn config(self) -> CacheConfig {
        let (residual_diff_threshold, max_continuous_cached_steps, taylorseer_order) = match self {
            Preset::Lossless => return CacheConfig { max_cached_steps: Some(0), ..CacheConfig::default() },
            Preset::High => (0.24, 1, 2),
            Preset::Balanced => (0.24, 2, 2),
            Preset::Fast => (0.4, 3, 2),
            // Second-order forecasts overshoot on runs this long.
            Preset::Ultra => (0.4, 4, 1),
        };
        CacheConfig {
            max_warmup_steps: 3,
            residual_diff_threshold,
            max_continuous_cached_steps: Some(max_continuous_cached_steps),
            enable_taylorseer: true,
            taylorseer_order,
            branches_agree: true,
            compute_last_step: true,
            ..CacheConfig::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan;

    /// In runs of four steps no step resembles the one before: no preset may claim to help there.
    #[test]
    fn four_steps_are_computed_whatever_the_preset() {
        let presets = Preset::NAMED.map(|(_, quality)| quality.config());
        for config in presets.into_iter().chain([CacheConfig::default()]) {
            let plan = plan(&config, 4, &[5, 20]);
            assert_eq!((plan.best_case.as_str(), plan.max_speedup), ("1111", 1.0), "{config:?}");
            assert!(config.never_reuses() || !plan.warnings.is_empty(), "{config:?} says nothing of it");
        }
    }

    #[test]
    fn every_preset_is_valid_and_faster_than_the_one_before() {
        let bounds = Preset::NAMED.map(|(name, quality)| {
            assert_eq!(Preset::named(name), Some(quality));
            quality.config().validate(&[12]).unwrap();
            plan(&quality.config(), 28, &[12]).max_speedup
        });
        assert_eq!(bounds[0], 1.0);
        assert!(bounds.is_sorted_by(|slower, faster| slower < faster), "{bounds:?}");
        assert!(Preset::Lossless.config().never_reuses());
    }
}
