//! A plan for one request.

use super::fitted_plan::FittedPlan;
use super::guard::VelocityChange;
use super::jump::Jump;
use crate::StepMask;

/// The computed steps of a request, the jump from each, and the noise levels of all steps.
#[derive(Clone, Debug, PartialEq)]
pub struct RunPlan {
    mask: StepMask,
    /// One jump per computed step.
    jumps: Vec<Jump>,
    /// One change per computed step except the first, or none at all.
    changes: Vec<VelocityChange>,
    /// For each step, the number of computed steps before it.
    before: Vec<usize>,
    /// For each level, its position among the calibrated steps, fractional between two of them.
    levels: Vec<f64>,
}

impl RunPlan {
    /// Adapts `plan`, calibrated at `calibrated` steps, to a run of `steps` steps. The run computes as many steps as
    /// the plan, each at the noise level of the plan's step.
    pub(super) fn new(plan: &FittedPlan, calibrated: usize, steps: usize) -> Self {
        let FittedPlan { computed, jumps, changes, .. } = plan;
        let at = spread(computed, calibrated, steps);
        let mut levels = Vec::with_capacity(steps + 1);
        let ends = at.iter().skip(1).chain([&steps]).zip(computed.iter().skip(1).chain([&calibrated]));
        for ((&from, &start), (&to, &end)) in at.iter().zip(computed).zip(ends) {
            let share = |step: usize| (step - from) as f64 / (to - from) as f64;
            levels.extend((from..to).map(|step| start as f64 + share(step) * (end - start) as f64));
        }
        levels.push(calibrated as f64);
        let mask = mask(&at, steps);
        let before = (0..steps).map(|step| (0..step).filter(|&before| mask.computes(before)).count());
        RunPlan { before: before.collect(), mask, jumps: jumps.clone(), changes: changes.clone(), levels }
    }

    /// The mask of computed steps.
    pub fn mask(&self) -> &StepMask {
        &self.mask
    }

    /// The jump from a computed step; `None` for a skipped step, which continues the last jump.
    pub fn jump(&self, step: usize) -> Option<&Jump> {
        self.mask.computes(step).then(|| &self.jumps[self.before[step]])
    }

    /// The measured change of the velocity at a computed step; `None` if it was not measured, or there is no velocity
    /// before it.
    pub fn change(&self, step: usize) -> Option<&VelocityChange> {
        let computed = if self.mask.computes(step) { self.before[step] } else { 0 };
        self.changes.get(computed.checked_sub(1)?)
    }

    /// The noise levels of all steps, from the levels `calibrated` of the calibrated number of steps.
    ///
    /// # Panics
    /// If `calibrated` has too few levels.
    pub fn sigmas(&self, calibrated: &[f32]) -> Vec<f32> {
        let level = |&at: &f64| {
            let (below, part) = (at.floor() as usize, (at - at.floor()) as f32);
            match part > 0.0 {
                true => calibrated[below] + part * (calibrated[below + 1] - calibrated[below]),
                false => calibrated[below],
            }
        };
        self.levels.iter().map(level).collect()
    }
}

/// The computed steps of a run of `steps` steps, spread over it as `computed` is over `calibrated` steps.
fn spread(computed: &[usize], calibrated: usize, steps: usize) -> Vec<usize> {
    let mut at: Vec<usize> = Vec::with_capacity(computed.len());
    for (i, &step) in computed.iter().enumerate() {
        let first = at.last().map_or(0, |last| last + 1);
        // Leaves room for the computed steps still to come.
        at.push((step * steps).div_ceil(calibrated).clamp(first, steps + i - computed.len()));
    }
    at
}

fn mask(computed: &[usize], steps: usize) -> StepMask {
    StepMask::from_steps((0..steps).map(|step| computed.contains(&step)))
}

/// The mask of a run of `steps` steps that follows `plan`, calibrated at `calibrated` steps; `None` if the plan
/// computes more steps than the run has.
pub(super) fn mask_of(plan: &FittedPlan, calibrated: usize, steps: usize) -> Option<StepMask> {
    let computed = &plan.computed;
    (computed.len() <= steps).then(|| mask(&spread(computed, calibrated, steps), steps))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibrated::Psnr;

    fn plan(computed: &[usize], calibrated: usize, steps: usize) -> RunPlan {
        let (jumps, psnr) = (vec![Jump::euler(); computed.len()], Psnr::of(vec![50.0]));
        let changes = (1..computed.len()).map(|i| VelocityChange { mean: i as f64, spread: 0.0 }).collect();
        RunPlan::new(&FittedPlan { computed: computed.to_vec(), jumps, changes, psnr }, calibrated, steps)
    }

    #[test]
    fn the_calibrated_number_of_steps_has_its_own_levels() {
        let plan = plan(&[0, 2, 5], 7, 7);
        assert_eq!(plan.mask().to_string(), "1010010");
        let calibrated = [1.0, 0.9, 0.7, 0.5, 0.4, 0.3, 0.1, 0.0];
        let sigmas = plan.sigmas(&calibrated);
        for step in [0, 2, 5, 7] {
            assert_eq!(sigmas[step], calibrated[step]);
        }
        assert!(sigmas.windows(2).all(|pair| pair[0] > pair[1]), "{sigmas:?}");
        assert_eq!((plan.jump(1), plan.jump(2)), (None, Some(&Jump::euler())));
        let changes = [0, 1, 2, 3, 5].map(|step| plan.change(step).map(|change| change.mean));
        assert_eq!(changes, [None, None, Some(1.0), None, Some(2.0)]);
    }

    #[test]
    fn another_number_of_steps_computes_at_the_same_levels() {
        let calibrated: Vec<_> = (0..=28).map(|i| 1.0 - i as f32 / 28.0).collect();
        let computed = [0, 3, 7, 12, 18, 25];
        for steps in 6..=100 {
            let plan = plan(&computed, 28, steps);
            let at: Vec<_> = (0..steps).filter(|&step| plan.mask().computes(step)).collect();
            assert_eq!((at.len(), at[0]), (6, 0), "{steps}");
            let sigmas = plan.sigmas(&calibrated);
            assert_eq!((sigmas.len(), sigmas[steps]), (steps + 1, 0.0));
            assert!(sigmas.windows(2).all(|pair| pair[0] > pair[1]), "{steps}: {sigmas:?}");
            for (step, level) in at.iter().zip(computed) {
                assert_eq!(sigmas[*step], calibrated[level], "{steps}");
            }
        }
    }
}
