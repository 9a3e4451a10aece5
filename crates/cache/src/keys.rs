//! The keys of a cache configuration, and what a mistyped one may have meant.

/// Every key, in the order of the documentation.
pub const KEYS: &[&str] = &[
    "quality",
    "Fn_compute_blocks",
    "Bn_compute_blocks",
    "max_warmup_steps",
    "warmup_interval",
    "max_cached_steps",
    "max_continuous_cached_steps",
    "residual_diff_threshold",
    "max_accumulated_residual_diff_threshold",
    "segment_threshold_factors",
    "enable_taylorseer",
    "enable_encoder_taylorseer",
    "taylorseer_order",
    "taylorseer_cache_type",
    "scm_steps_mask_policy",
    "scm_steps_policy",
    "steps_computation_mask",
    "steps_computation_policy",
    "scm_compute_bins",
    "scm_cache_bins",
    "force_refresh_step_hint",
    "force_refresh_step_policy",
    "enable_separate_cfg",
    "cfg_compute_first",
    "cfg_diff_compute_separate",
    "branches_agree",
    "compute_last_step",
    "num_inference_steps",
    "budget",
    "psnr",
];

/// Longest name that is compared with the keys: their own length and as much again.
const MAX_TYPED: usize = 80;

/// Up to three keys that `name` may have been meant for, the most alike first.
pub(crate) fn near(name: &str) -> Vec<&'static str> {
    if name.len() > MAX_TYPED {
        return Vec::new();
    }
    let normal = |text: &str| text.to_lowercase().replace('-', "_");
    let name = normal(name);
    let mut near: Vec<_> = KEYS
        .iter()
        .map(|key| (edits(&name, &normal(key)), *key))
        .filter(|(edits, key)| *edits <= (key.len() / 3).max(2))
        .collect();
    near.sort();
    near.into_iter().take(3).map(|(_, key)| key).collect()
}

/// Levenshtein's distance: the fewest bytes to insert, delete or replace.
fn edits(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.bytes().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_key_is_recognised() {
        assert_eq!(near("fn_compute_blocks"), ["Fn_compute_blocks", "Bn_compute_blocks"]);
        assert_eq!(near("residual-diff-treshold"), ["residual_diff_threshold"]);
        assert_eq!(near("max_cached_step")[0], "max_cached_steps");
        assert_eq!(near("prompt"), [""; 0]);
        assert_eq!(near(&"x".repeat(1 << 20)), [""; 0]);
    }
}
