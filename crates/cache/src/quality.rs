//! Presets: one word for a trade of speed against quality.

use crate::CacheConfig;

/// How far the cache may go, from not at all to as fast as it can.
///
/// All but [`Lossless`](Quality::Lossless) let the two CFG branches decide together, whose errors
/// otherwise do not cancel in `uncond + scale (cond - uncond)`, compute the last step, and forecast
/// by TaylorSeer of the first order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quality {
    /// No step is reused: the picture is the uncached one.
    Lossless,
    /// Half the guide's default threshold, runs of two.
    High,
    /// The guide's default threshold and runs.
    Balanced,
    /// A higher threshold, runs of four.
    Fast,
    /// After the warmup, whatever a run of eight permits.
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

    /// What the word means.
    pub fn config(self) -> CacheConfig {
        let (residual_diff_threshold, max_continuous_cached_steps) = match self {
            Quality::Lossless => return CacheConfig { max_cached_steps: Some(0), ..CacheConfig::default() },
            Quality::High => (0.12, 2),
            Quality::Balanced => (0.24, 3),
            Quality::Fast => (0.4, 4),
            Quality::Ultra => (0.8, 8),
        };
        CacheConfig {
            residual_diff_threshold,
            max_continuous_cached_steps: Some(max_continuous_cached_steps),
            enable_taylorseer: true,
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
