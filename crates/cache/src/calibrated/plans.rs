//! The plans of a served model: one set shared by all users of the model, replaceable at any time.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::calibration::{Aim, Calibration, PlanError, RunSpec};
use super::fitted_plan::FittedPlan;
use super::learning::{Kind, Learning, LearntRun};
use super::run_plan::{RunPlan, mask_of};
use crate::StepMask;

/// The plans of a model, initially empty. Clones share them.
///
/// Requests with two passes per step and those with one have separate plans.
#[derive(Clone, Debug, Default)]
pub struct Plans(Arc<RwLock<Held>>);

#[derive(Debug, Default)]
struct Held {
    /// At most one per kind of request.
    planned: Vec<Planning>,
    /// Number of pictures that plans are learnt from; `None` if plans are not learnt.
    learn_from: Option<usize>,
    learning: Learning,
    on_tightened: Told,
}

/// The callback for tightened plans, for instance to store them.
#[derive(Clone, Default)]
struct Told(Option<Arc<Tell>>);

type Tell = dyn Fn(&Planning) + Send + Sync;

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Told(..)" } else { "Told(nobody)" })
    }
}

/// Progress of learning plans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Number of pictures learnt from so far.
    pub pictures: usize,
    /// Number of pictures needed.
    pub of: usize,
}

/// A snapshot of the plans of one kind of request.
#[derive(Clone, Debug, PartialEq)]
pub struct Planning {
    /// The calibration of the model.
    pub calibration: Arc<Calibration>,
    /// How far pictures fell below the promised PSNR, in dB. A promise is looked up higher by this.
    pub shift: f64,
}

impl Plans {
    /// The plans for requests with two passes per step, or with one.
    pub fn current(&self, guided: bool) -> Option<Planning> {
        self.read().planned.iter().find(|planning| planning.is_for(guided)).cloned()
    }

    /// Replaces the calibration of its kind, with a shift of 0.
    pub fn replace(&self, calibration: Calibration) {
        self.write().replace(calibration);
    }

    /// Sets the shift by which promises of this kind are looked up higher, in dB. A negative shift counts as 0.
    pub fn tighten(&self, guided: bool, shift: f64) {
        let (tightened, told) = self.write().tighten(guided, shift);
        if let (Some(planning), Told(Some(tell))) = (tightened, told) {
            tell(&planning);
        }
    }

    /// Sets the callback for tightened plans.
    pub fn on_tightened(&self, tell: impl Fn(&Planning) + Send + Sync + 'static) {
        self.write().on_tightened = Told(Some(Arc::new(tell)));
    }

    /// Returns a plan for a run, and the planning that it comes from.
    ///
    /// # Errors
    /// There are no plans for such runs, or the run is too short.
    pub fn plan(&self, run: RunSpec<'_>, aim: Aim) -> Result<(Planning, RunPlan), PlanError> {
        let Some(planning) = self.current(run.guided) else {
            let other = self.current(!run.guided);
            return Err(other.map_or(PlanError::Unknown, |_| PlanError::Guidance { calibrated: !run.guided }));
        };
        let plan = planning.calibration.plan(run, planning.shifted(aim))?;
        Ok((planning, plan))
    }

    /// Enables learning: plans of a kind that has none are learnt from this many pictures.
    pub fn learn_from(&self, pictures: usize) {
        self.write().learn_from = Some(pictures);
    }

    /// Progress of learning plans for requests with two passes per step, or with one. `None` if there are plans, or
    /// none are learnt.
    pub fn progress(&self, guided: bool) -> Option<Progress> {
        let held = self.read();
        let of = held.learn_from.filter(|_| !held.knows(guided))?;
        Some(Progress { pictures: held.learning.pictures(guided), of })
    }

    /// Progress of learning plans from requests of this kind; `None` as for [`Plans::progress`].
    pub fn progress_of(&self, kind: Kind) -> Option<Progress> {
        let held = self.read();
        let of = held.learn_from.filter(|_| !held.knows(kind.is_guided()))?;
        Some(Progress { pictures: held.learning.pictures_of(kind), of })
    }

    /// Whether the next run of this kind should measure the effect of a change of its latents on its picture.
    pub fn measures(&self, kind: Kind) -> bool {
        self.read().learning.measures(kind)
    }

    /// Adds the measurements of a full run over the noise levels `sigmas`. `about` is the resulting calibration without
    /// its plans. Returns the calibration once it has plans; they are then in use.
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

    /// Tightens the plans of that kind. Returns them, if any, and the callback to run once the lock is released.
    fn tighten(&mut self, guided: bool, shift: f64) -> (Option<Planning>, Told) {
        let of_kind = self.planned.iter_mut().find(|planning| planning.is_for(guided));
        let tightened = of_kind.map(|planning| {
            planning.shift = shift.max(0.0);
            planning.clone()
        });
        (tightened, self.on_tightened.clone())
    }

    fn replace(&mut self, calibration: Calibration) -> Arc<Calibration> {
        self.planned.retain(|planning| !planning.is_for(calibration.is_guided()));
        let calibration = Arc::new(calibration);
        self.planned.push(Planning { calibration: calibration.clone(), shift: 0.0 });
        calibration
    }
}

impl Planning {
    /// Plans with a shift of 0.
    pub fn new(calibration: Calibration) -> Self {
        Planning { calibration: Arc::new(calibration), shift: 0.0 }
    }

    /// The plan that a run of `steps` steps follows.
    pub fn chosen(&self, steps: usize, aim: Aim) -> &FittedPlan {
        self.calibration.chosen(steps, self.shifted(aim))
    }

    /// A warning for the client if a request asks for more than any plan keeps.
    pub fn out_of_reach(&self, steps: usize, aim: Aim) -> Option<String> {
        let plan = self.chosen(steps, aim);
        let (computed, promise) = (plan.computed.len(), plan.psnr.mean - self.shift);
        match aim {
            Aim::Psnr(asked) if computed >= steps => Some(format!(
                "no plan keeps `psnr` {asked} (dB): each of the {steps} steps is computed, and the cache saves nothing"
            )),
            Aim::Psnr(asked) if promise < asked => Some(format!(
                "no plan keeps `psnr` {asked} (dB): the best, with {computed} of {steps} steps computed, keeps {promise:.1} in the mean"
            )),
            Aim::Budget(share) if computed as f64 > share * steps as f64 + 1e-9 => Some(format!(
                "no plan keeps `budget` {share}: the cheapest computes {computed} of {steps} steps, a share of {:.2}",
                computed as f64 / steps as f64
            )),
            Aim::Psnr(_) | Aim::Budget(_) => None,
        }
    }

    /// The computed steps of a run of `steps` steps; `None` if the run is too short.
    pub fn computed(&self, steps: usize, aim: Aim) -> Option<StepMask> {
        mask_of(self.chosen(steps, aim), self.calibration.num_inference_steps, steps)
    }

    /// The expected mean PSNR of a run's picture, in dB.
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

    /// Plans of 3 to 10 of 20 steps, each 4 dB better than its predecessor: 32 dB at 3.
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

    fn run(guided: bool) -> RunSpec<'static> {
        RunSpec { model: "digest", steps: 20, guided }
    }

    fn computed(plans: &Plans, guided: bool, aim: Aim) -> Result<usize, PlanError> {
        let (planning, plan) = plans.plan(run(guided), aim)?;
        let computed = (0..20).filter(|&step| plan.mask().computes(step)).count();
        assert_eq!(computed, planning.chosen(20, aim).computed.len());
        assert_eq!(planning.computed(20, aim).as_ref(), Some(plan.mask()));
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
    fn who_keeps_plans_is_told_when_they_are_tightened() {
        let plans = Plans::default();
        let kept = Arc::new(RwLock::new(Vec::new()));
        let (keep, asks) = (kept.clone(), plans.clone());
        // The callback may query the plans.
        plans.on_tightened(move |planning| keep.write().unwrap().push((planning.shift, asks.current(true).is_some())));
        plans.tighten(true, 1.0);
        plans.replace(calibration(Some(3.0)));
        plans.tighten(true, 1.5);
        plans.tighten(false, 2.0);
        assert_eq!(*kept.read().unwrap(), [(1.5, true)]);
    }

    #[test]
    fn what_no_plan_keeps_is_told() {
        let plans = Plans::default();
        plans.replace(calibration(Some(3.0)));
        let told = |steps, aim| plans.current(true).unwrap().out_of_reach(steps, aim);
        assert_eq!(told(20, Aim::Psnr(60.0)), None);
        let best = "no plan keeps `psnr` 61 (dB): the best, with 10 of 20 steps computed, keeps 60.0 in the mean";
        assert_eq!(told(20, Aim::Psnr(61.0)).unwrap(), best);
        let all = "no plan keeps `psnr` 61 (dB): each of the 10 steps is computed, and the cache saves nothing";
        assert_eq!(told(10, Aim::Psnr(61.0)).unwrap(), all);
        assert_eq!(told(20, Aim::Budget(0.15)), None);
        let cheapest = "no plan keeps `budget` 0.1: the cheapest computes 3 of 20 steps, a share of 0.15";
        assert_eq!(told(20, Aim::Budget(0.1)).unwrap(), cheapest);
        plans.tighten(true, 2.5);
        assert!(told(20, Aim::Psnr(60.0)).unwrap().ends_with("keeps 57.5 in the mean"));
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
