//! Step computation masks (SCM): the steps that must be computed, fixed before the first one.
//!
//! Equal to cache-dit 1.5.3's `steps_mask` for every step count:
//! <https://github.com/vipshop/cache-dit/blob/v1.5.3/src/cache_dit/caching/cache_interface.py#L612>

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One flag per step: whether it must be computed. Steps beyond the mask need not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepMask(Vec<bool>);

/// The predefined masks, from most to fewest computed steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScmPolicy {
    /// 18 of 28 steps computed.
    Slow,
    /// 15 of 28.
    Medium,
    /// 11 of 28.
    Fast,
    /// 8 of 28.
    Ultra,
}

/// The source of a request's mask, which depends on its step count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MaskSource {
    /// `scm_steps_mask_policy`: built for each request's own step count.
    Policy(ScmPolicy),
    /// `scm_compute_bins` and `scm_cache_bins`: alternating runs of computed and other steps.
    Bins {
        /// Lengths of the computed runs.
        compute: Vec<usize>,
        /// Lengths of the runs between them.
        cache: Vec<usize>,
    },
    /// `steps_computation_mask`, taken unchanged.
    Steps(StepMask),
}

/// The reason why there is no mask for a step count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MaskError {
    /// There is no predefined mask for this count.
    #[error("the SCM policies have masks for 4, for 6 and for at least 8 steps. Given: {0} steps")]
    UnsupportedSteps(usize),
    /// The bins have fewer steps than the request.
    #[error("`scm_compute_bins` and `scm_cache_bins` must add up to at least {steps} steps. Given: {sum} steps")]
    ShortBins {
        /// Steps needed.
        steps: usize,
        /// Steps in the bins.
        sum: usize,
    },
}

impl ScmPolicy {
    /// Every policy, with its name on the wire.
    pub const NAMED: [(&'static str, ScmPolicy); 4] = [
        ("slow", ScmPolicy::Slow),
        ("medium", ScmPolicy::Medium),
        ("fast", ScmPolicy::Fast),
        ("ultra", ScmPolicy::Ultra),
    ];
}

impl MaskSource {
    /// The mask of a request with `steps` steps.
    ///
    /// # Errors
    /// The source has no mask for this count.
    pub fn mask(&self, steps: usize) -> Result<StepMask, MaskError> {
        match self {
            MaskSource::Policy(policy) => StepMask::from_policy(*policy, steps),
            MaskSource::Bins { compute, cache } => StepMask::from_bins(compute, cache, Some(steps)),
            MaskSource::Steps(mask) => Ok(mask.clone()),
        }
    }

    /// Whether the first step is computed for any step count.
    pub(crate) fn computes_first(&self) -> bool {
        match self {
            MaskSource::Policy(_) => true,
            MaskSource::Bins { compute, cache } => emit(compute, cache).first() == Some(&true),
            MaskSource::Steps(mask) => mask.computes(0),
        }
    }
}

impl StepMask {
    /// The predefined mask of `policy` for `steps` steps; its last step is always computed.
    ///
    /// # Errors
    /// [`MaskError::UnsupportedSteps`] below 8, except 4 and 6.
    pub fn from_policy(policy: ScmPolicy, steps: usize) -> Result<Self, MaskError> {
        let mut bins = Bins::predefined(policy, steps)?;
        bins.grow_to(steps);
        bins.trim_to(steps);
        let mut mask = emit(&bins.compute, &bins.cache);
        mask.truncate(steps);
        if let Some(last) = mask.last_mut() {
            *last = true;
        }
        Ok(StepMask(mask))
    }

    /// `compute[0]` computed steps, `cache[0]` others, `compute[1]` computed, and so on. When one list ends, the other
    /// continues. The mask is truncated to `steps` if given.
    ///
    /// # Errors
    /// [`MaskError::ShortBins`] if the bins hold fewer than `steps`.
    pub fn from_bins(compute: &[usize], cache: &[usize], steps: Option<usize>) -> Result<Self, MaskError> {
        let mut mask = emit(compute, cache);
        if let Some(steps) = steps {
            if mask.len() < steps {
                return Err(MaskError::ShortBins { steps, sum: mask.len() });
            }
            mask.truncate(steps);
        }
        Ok(StepMask(mask))
    }

    /// A mask from one flag per step, `true` if the step must be computed.
    pub fn from_steps(steps: impl IntoIterator<Item = bool>) -> Self {
        StepMask(steps.into_iter().collect())
    }

    /// Whether `step` must be computed; false beyond the mask.
    pub fn computes(&self, step: usize) -> bool {
        self.0.get(step).copied().unwrap_or(false)
    }

    /// Number of leading steps that must be computed.
    pub fn leading_computed(&self) -> usize {
        self.0.iter().take_while(|&&computed| computed).count()
    }

    /// The flags, one per step.
    pub fn steps(&self) -> impl Iterator<Item = bool> {
        self.0.iter().copied()
    }

    /// Number of steps in the mask.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the mask has no step.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for StepMask {
    /// Writes `1` for a step that must be computed, `0` for any other.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|&computed| f.write_str(if computed { "1" } else { "0" }))
    }
}

impl FromStr for StepMask {
    type Err = ();

    /// Reads a string of `0` and `1`.
    fn from_str(text: &str) -> Result<Self, ()> {
        let step = |c| match c {
            '0' => Ok(false),
            '1' => Ok(true),
            _ => Err(()),
        };
        text.chars().map(step).collect::<Result<_, _>>().map(StepMask)
    }
}

/// Lengths of the computed runs and of the runs between them.
struct Bins {
    compute: Vec<usize>,
    cache: Vec<usize>,
}

impl Bins {
    /// The table row for `steps`, before it is grown or trimmed. From 16 steps on it is that of 28 steps.
    fn predefined(policy: ScmPolicy, steps: usize) -> Result<Self, MaskError> {
        let (compute, cache): (&[usize], &[usize]) = match (steps, policy) {
            (4, _) => (&[2, 1], &[1]),
            (6, _) => (&[3, 1], &[2]),
            (..8, _) => return Err(MaskError::UnsupportedSteps(steps)),
            (8, ScmPolicy::Slow) => (&[5, 1, 1], &[1]),
            (8, ScmPolicy::Medium) => (&[4, 1, 1], &[1, 1]),
            (8, ScmPolicy::Fast) => (&[3, 1, 1], &[1, 2]),
            (8, ScmPolicy::Ultra) => (&[2, 1, 1], &[2, 2]),
            (9, ScmPolicy::Slow) => (&[5, 2, 1], &[1]),
            (9, ScmPolicy::Medium) => (&[5, 1, 1], &[1, 1]),
            (9, ScmPolicy::Fast) => (&[4, 1, 1], &[1, 2]),
            (9, ScmPolicy::Ultra) => (&[3, 1, 1], &[2, 2]),
            (..16, ScmPolicy::Slow) => (&[4, 2, 2, 2, 1], &[1, 1, 1, 1]),
            (..16, ScmPolicy::Medium) => (&[4, 2, 1, 1, 1], &[1, 1, 2, 2]),
            (..16, ScmPolicy::Fast) => (&[3, 1, 1, 1, 1], &[1, 2, 2, 3]),
            (..16, ScmPolicy::Ultra) => (&[2, 1, 1, 1, 1], &[1, 2, 3, 3]),
            (_, ScmPolicy::Slow) => (&[8, 3, 3, 2, 1, 1], &[1, 2, 2, 2, 3]),
            (_, ScmPolicy::Medium) => (&[6, 2, 2, 2, 2, 1], &[1, 3, 3, 3, 3]),
            (_, ScmPolicy::Fast) => (&[6, 1, 1, 1, 1, 1], &[1, 3, 4, 5, 4]),
            (_, ScmPolicy::Ultra) => (&[4, 1, 1, 1, 1], &[2, 5, 6, 7]),
        };
        Ok(Bins { compute: compute.to_vec(), cache: cache.to_vec() })
    }

    fn sum(&self) -> usize {
        self.compute.iter().chain(&self.cache).sum()
    }

    /// Lengthens the bins in turn, in proportion to their initial lengths, until they hold `steps`.
    fn grow_to(&mut self, steps: usize) {
        if self.sum() >= steps {
            return;
        }
        // In f64 and truncated, as Python's `int(bin * ((steps / 28) * 0.5))`.
        let scale = (steps as f64 / 28.0) * 0.5;
        let growths =
            |bins: &[usize]| -> Vec<usize> { bins.iter().map(|&bin| ((bin as f64 * scale) as usize).max(1)).collect() };
        let (compute_growths, cache_growths) = (growths(&self.compute), growths(&self.cache));
        loop {
            for i in 0..self.compute.len().min(self.cache.len()) {
                self.compute[i] += compute_growths[i];
                if self.sum() >= steps {
                    return;
                }
                self.cache[i] += cache_growths[i];
                if self.sum() >= steps {
                    return;
                }
            }
            *self.compute.last_mut().expect("every table row has compute bins. This is a bug.") += 1;
            if self.sum() >= steps {
                return;
            }
        }
    }

    /// Takes steps from the last cache bin and the last compute bin in turn until `steps` are left.
    fn trim_to(&mut self, steps: usize) {
        while self.sum() > steps {
            take_last(&mut self.cache);
            if self.sum() <= steps {
                return;
            }
            take_last(&mut self.compute);
        }
    }
}

/// Takes one step from the last bin and drops it once it is empty.
fn take_last(bins: &mut Vec<usize>) {
    if let Some(last) = bins.last_mut() {
        *last -= 1;
        if *last == 0 {
            bins.pop();
        }
    }
}

fn emit(compute: &[usize], cache: &[usize]) -> Vec<bool> {
    let mut mask = Vec::new();
    for i in 0..compute.len().max(cache.len()) {
        mask.extend(std::iter::repeat_n(true, compute.get(i).copied().unwrap_or(0)));
        mask.extend(std::iter::repeat_n(false, cache.get(i).copied().unwrap_or(0)));
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::*;

    // Every count and policy is compared with cache-dit's own masks in tests/goldens/cache_masks.rs.

    #[test]
    fn a_mask_is_as_long_as_asked_and_computes_both_ends() {
        for steps in (8..=1000).chain([4, 6]) {
            for (name, policy) in ScmPolicy::NAMED {
                let mask = StepMask::from_policy(policy, steps).unwrap();
                assert_eq!(mask.len(), steps, "{name} {steps}");
                assert!(mask.computes(0) && mask.computes(steps - 1), "{name} {steps}: {mask}");
                assert!(!mask.computes(steps), "nothing must be computed beyond the mask");
            }
        }
    }

    #[test]
    fn counts_without_a_mask_are_named() {
        for steps in [0, 1, 2, 3, 5, 7] {
            let err = StepMask::from_policy(ScmPolicy::Fast, steps).unwrap_err();
            assert_eq!(err, MaskError::UnsupportedSteps(steps));
        }
        let err = StepMask::from_bins(&[5, 1], &[2], Some(9)).unwrap_err();
        assert_eq!(
            err.to_string(),
            "`scm_compute_bins` and `scm_cache_bins` must add up to at least 9 steps. Given: 8 steps"
        );
    }

    #[test]
    fn masks_are_read_and_written_alike() {
        let mask: StepMask = "1101".parse().unwrap();
        assert_eq!((mask.to_string().as_str(), mask.leading_computed()), ("1101", 2));
        assert!("1121".parse::<StepMask>().is_err());
    }
}
