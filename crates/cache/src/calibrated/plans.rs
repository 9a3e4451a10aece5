//! The plans that a model is served with: one set for all who run it, which may be replaced while they do.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::calibration::{Aim, Calibration, PlanError, Run};
use super::fitted_plan::FittedPlan;
use super::learning::{Kind, Learning, LearntRun};
use super::run_plan::RunPlan;

/// The plans of a model, none at first. A clone is the same plans.
///
/// Requests with two passes a step and those with one have plans of their own.
#[derive(Clone, Debug, Default)]
pub struct Plans(Arc<RwLock<Held>>);

#[derive(Debug, Default)]
struct Held {
    /// One a kind of request, at most.
    planned: Vec<Planning>,
    /// Pictures that plans are learnt from; `None` where they are not learnt.
    learn_from: Option<usize>,
    learning: Learning,
}

/// How far the learning of plans is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Pictures that have been learnt from.
    pub pictures: usize,
    /// Of so many that there are to be.
    pub of: usize,
}

/// The plans of one kind of request, as they are at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Planning {
    /// What was measured of the model.
    pub calibration: Arc<Calibration>,
    /// What pictures turned out to be below the promise, in dB: a promise is looked up so much higher.
    pub shift: f64,
}

impl Plans {
    /// What is known of requests with two passes a step, or with one.
    pub fn current(&self, guided: bool) -> Option<Planning> {
        self.read().planned.iter().find(|planning| planning.is_for(guided)).cloned()
    }

    /// Puts a calibration in the place of that of its kind. Nothing is known yet of what it misses.
    pub fn replace(&self, calibration: Calibration) {
        self.write().replace(calibration);
    }

    /// From now on, a promise of so many dB is looked up `shift` higher, in place of what was said before. Below 0 it is nothing.
    pub fn tighten(&self, guided: bool, shift: f64) {
        let mut held = self.write();
        let of_kind = held.planned.iter_mut().filter(|planning| planning.is_for(guided));
        of_kind.for_each(|planning| planning.shift = shift.max(0.0));
    }

    /// A plan for a run, and whose it is.
    ///
    /// # Errors
    /// Nothing is known of such runs, or the run is too short.
    pub fn plan(&self, run: Run<'_>, aim: Aim) -> Result<(Planning, RunPlan), PlanError> {
        let Some(planning) = self.current(run.guided) else {
            let other = self.current(!run.guided);
            return Err(other.map_or(PlanError::Unknown, |_| PlanError::Guidance { calibrated: !run.guided }));
        };
        let plan = planning.calibration.plan(run, planning.shifted(aim))?;
        Ok((planning, plan))
    }

    /// From now on, plans of a kind that has none are learnt from so many pictures of it.
    pub fn learn_from(&self, pictures: usize) {
        self.write().learn_from = Some(pictures);
    }

    /// How far the learning is of plans for requests with two passes a step, or with one; `None` where there are plans, or
    /// none are learnt.
    pub fn progress(&self, guided: bool) -> Option<Progress> {
        let held = self.read();
        let of = held.learn_from.filter(|_| !held.knows(guided))?;
        Some(Progress { pictures: held.learning.pictures(guided), of })
    }

    /// Takes what a whole run tells; the noise levels of which are `sigmas`. `about` is the calibration that becomes of it, but for
    /// the plans. Answers with it once it has plans, which are then in place.
    pub fn learn(&self, kind: Kind, run: LearntRun, sigmas: &[f64], about: Calibration) -> Option<Arc<Calibration>> {
        let mut held = self.write();
        let of = held.learn_from.filter(|_| !held.knows(kind.is_guided()))?;
        let plans = held.learning.add(kind, run, of, sigmas)?;
        Some(held.replace(Calibration { num_inference_steps: kind.steps, pictures: of, plans, ..about }))
    }

    fn write(&self) -> RwLockWriteGuard<'_, Held> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> RwLockReadGuard<'_, Held> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn knows(&self, guided: bool) -> bool {
        self.planned.iter().any(|planning| planning.is_for(guided))
    }

    fn replace(&mut self, calibration: Calibration) -> Arc<Calibration> {
        self.planned.retain(|planning| !planning.is_for(calibration.is_guided()));
        let calibration = Arc::new(calibration);
        self.planned.push(Planning { calibration: calibration.clone(), shift: 0.0 });
        calibration
    }
}

impl Planning {
    /// The plan that a run of so many steps follows, of those that are known.
    pub fn chosen(&self, steps: usize, aim: Aim) -> &FittedPlan {
        self.calibration.chosen(steps, self.shifted(aim))
    }

    /// The likeness that a run's picture may be expected to have in the mean, in dB.
    pub fn promise(&self, steps: usize, aim: Aim) -> f64 {
        self.chosen(steps, aim).psnr.mean - self.shift
    }

    fn is_for(&self, guided: bool) -> bool {
        self.calibration.is_guided() == guided
    }

    fn shifted(&self, aim: Aim) -> Aim {
        match aim {
            Aim::Psnr(promise) => Aim::Psnr(promise + self.shift),
            Aim::Budget(share) => Aim::Budget(share),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibrated::{Jump, Psnr};

    /// Plans of 3 to 10 of 20 steps, each 4 dB better than the one before: 32 dB at 3.
    fn calibration(guidance: Option<f64>) -> Calibration {
        let plan = |count: usize| FittedPlan {
            computed: (0..count).map(|i| 20 * i / count).collect(),
            jumps: vec![Jump::euler(); count],
            changes: Vec::new(),
            psnr: Psnr::of(vec![20.0 + 4.0 * count as f64]),
        };
        let (class, model) = ("Some".into(), "digest".into());
        let plans = (3..=10).map(plan).collect();
        Calibration { class, model, num_inference_steps: 20, guidance, pictures: 8, plans }
    }

    fn run(guided: bool) -> Run<'static> {
        Run { model: "digest", steps: 20, guided }
    }

    fn computed(plans: &Plans, guided: bool, aim: Aim) -> Result<usize, PlanError> {
        let (planning, plan) = plans.plan(run(guided), aim)?;
        let computed = (0..20).filter(|&step| plan.mask().computes(step)).count();
        assert_eq!(computed, planning.chosen(20, aim).computed.len());
        Ok(computed)
    }

    #[test]
    fn two_passes_and_one_have_plans_of_their_own() {
        let plans = Plans::default();
        let aim = Aim::Budget(0.4);
        assert_eq!(computed(&plans, true, aim), Err(PlanError::Unknown));
        let of_another = plans.clone();
        of_another.replace(calibration(Some(3.0)));
        assert_eq!(computed(&plans, true, aim), Ok(8));
        assert_eq!(computed(&plans, false, aim), Err(PlanError::Guidance { calibrated: true }));
        plans.replace(calibration(None));
        let mut fewer = calibration(None);
        fewer.plans.truncate(2);
        plans.replace(fewer);
        assert_eq!((computed(&plans, true, aim), computed(&plans, false, aim)), (Ok(8), Ok(4)));
    }

    #[test]
    fn a_promise_that_is_missed_is_looked_up_higher() {
        let plans = Plans::default();
        plans.replace(calibration(Some(3.0)));
        let psnr = Aim::Psnr(40.0);
        let promise = || plans.current(true).unwrap().promise(20, psnr);
        assert_eq!((computed(&plans, true, psnr), promise()), (Ok(5), 40.0));
        plans.tighten(false, 9.0);
        assert_eq!(computed(&plans, true, psnr), Ok(5), "that was the other kind");
        plans.tighten(true, 2.5);
        assert_eq!((computed(&plans, true, psnr), promise()), (Ok(6), 41.5));
        assert_eq!(computed(&plans, true, Aim::Budget(0.25)), Ok(5), "a budget is kept");
        plans.tighten(true, -3.0);
        assert_eq!(computed(&plans, true, psnr), Ok(5));
        plans.tighten(true, 2.5);
        plans.replace(calibration(Some(3.0)));
        assert_eq!(computed(&plans, true, psnr), Ok(5), "new plans were not found to miss anything");
    }
}
