//! Presets: one word for a trade of speed against quality.

use serde::{Deserialize, Serialize};

use crate::CacheConfig;

/// How far the cache may go, from not at all to as fast as it can.
///
/// All but [`Lossless`](Quality::Lossless) warm up for three steps, forecast by TaylorSeer of the second
/// order, let the two CFG branches decide together, whose errors otherwise do not cancel in
/// `uncond + scale (cond - uncond)`, and compute the last step. They differ in the threshold and in
/// how many steps in a row may be reused.
///
/// The settings are the best of a hundred that were tried on the built-in model, by the distance of the
/// pictures from the uncached ones. What each gains and costs is in `BENCHMARKS.md`, beside what the
/// same time buys with fewer steps: `High` and `Balanced` were better than that at 20, 28 and 50 steps,
/// `Fast` and `Ultra` only at 50.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quality {
    /// No step is reused: the picture is the uncached one.
    Lossless,
    /// Every other step at most.
    High,
    /// Two steps of three at most, at the guide's default threshold.
    Balanced,
    /// A higher threshold, three steps of four at most.
    Fast,
    /// The same threshold, four steps of five at most, forecast along a line.
    Ultra,
}

impl Quality {
    /// Every preset, with its name on the wire.
    pub const NAMED: [(&'static str, Quality); 5] = [
        ("lossless", Quality::Lossless),
        ("high", Quality::High),
        ("balanced", Quality::Balanced),
        ("fast", Quality::Fast),
        ("ultra", Quality::Ultra),
    ];

    /// The preset of that name.
    pub fn named(name: &str) -> Option<Quality> {
        Quality::NAMED.into_iter().find(|&(known, _)| known == name).map(|(_, quality)| quality)
    }

    /// What the word promises where the model is calibrated, in dB: see [`Aim::Psnr`](crate::Aim::Psnr). `None` where no step
    /// is to be skipped.
    pub fn psnr(self) -> Option<f64> {
        match self {
            Quality::Lossless => None,
            Quality::High => Some(55.0),
            Quality::Balanced => Some(50.0),
            Quality::Fast => Some(45.0),
            Quality::Ultra => Some(40.0),
        }
    }

    /// What the word means where it is not.
    pub fn config(self) -> CacheConfig {
        let (residual_diff_threshold, max_continuous_cached_steps, taylorseer_order) = match self {
            Quality::Lossless => return CacheConfig { max_cached_steps: Some(0), ..CacheConfig::default() },
            Quality::High => (0.24, 1, 2),
            Quality::Balanced => (0.24, 2, 2),
            Quality::Fast => (0.4, 3, 2),
            // Parabolas overshoot on so long a run.
            Quality::Ultra => (0.4, 4, 1),
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

    /// Of a model that draws in four steps no step is like the one before: nothing pretends to help there.
    #[test]
    fn four_steps_are_computed_whatever_the_preset() {
        let presets = Quality::NAMED.map(|(_, quality)| quality.config());
        for config in presets.into_iter().chain([CacheConfig::default()]) {
            let plan = plan(&config, 4, &[5, 20]);
            assert_eq!((plan.best_case.as_str(), plan.max_speedup), ("1111", 1.0), "{config:?}");
            assert!(config.never_reuses() || !plan.warnings.is_empty(), "{config:?} says nothing of it");
        }
    }

    #[test]
    fn every_preset_is_valid_and_faster_than_the_one_before() {
        let bounds = Quality::NAMED.map(|(name, quality)| {
            assert_eq!(Quality::named(name), Some(quality));
            quality.config().validate(&[12]).unwrap();
            plan(&quality.config(), 28, &[12]).max_speedup
        });
        assert_eq!(bounds[0], 1.0);
        assert!(bounds.is_sorted_by(|slower, faster| slower < faster), "{bounds:?}");
        assert!(Quality::Lossless.config().never_reuses());
    }
}
