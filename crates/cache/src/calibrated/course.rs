//! A request's progress along its plan, and the guard that detects a departure from it.

use std::sync::Arc;

use super::jump::Jump;
use super::run_plan::RunPlan;
use crate::stats::{CacheStats, RunStats};
use crate::{Reason, Segment, StepRecord};

/// The steps of a request that follows a plan.
///
/// At each computed step the caller passes the change of the velocity since the last planned step. If the change is far
/// above the measured ones, the following steps are computed too, each as without a plan, up to the next planned step.
#[derive(Clone, Debug)]
pub struct Course {
    plan: Arc<RunPlan>,
    /// The next step.
    step: usize,
    /// Whether the last planned step was far off.
    is_off: bool,
    stats: CacheStats,
}

/// How a request advances from a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Way<'a> {
    /// A jump along a weighted sum of velocities, including that of this step.
    Jump(&'a Jump),
    /// Along the direction of the last jump.
    Onward,
    /// Along the velocity of this step, as in Euler's method.
    Step,
}

impl Course {
    /// The state before the first step of a request with `branches` branches.
    pub fn new(plan: RunPlan, segments: &[Segment], branches: usize) -> Self {
        let branches = |&segment| (0..branches).map(move |branch| RunStats::new(segment, branch, 0));
        let stats = segments.iter().flat_map(branches).collect();
        Course { plan: Arc::new(plan), step: 0, is_off: false, stats }
    }

    /// Whether the transformer runs in the next step.
    pub fn computes(&self) -> bool {
        self.is_off || self.is_planned()
    }

    /// Whether the plan computes the next step, so that its velocity must be kept for later jumps.
    pub fn is_planned(&self) -> bool {
        self.plan.jump(self.step).is_some()
    }

    /// Whether the next step needs the measured change of the velocity.
    pub fn is_guarded(&self) -> bool {
        self.plan.change(self.step).is_some()
    }

    /// Number of the next steps that are computed although the plan skips them.
    pub fn also_computed(&self) -> usize {
        let skipped = (self.step..self.plan.mask().len()).take_while(|&step| self.plan.jump(step).is_none());
        if self.is_off { skipped.count() } else { 0 }
    }

    /// Takes the next step. `change` is `mean |previous - current| / mean |previous|` of the velocities of this and the
    /// last planned step, if [`Course::is_guarded`].
    pub fn advance(&mut self, change: Option<f32>) -> (StepRecord, Way<'_>) {
        let (step, was_off) = (self.step, self.is_off);
        let jump = self.plan.jump(step);
        if jump.is_some() {
            let measured = self.plan.change(step).zip(change);
            self.is_off = measured.is_some_and(|(known, change)| known.is_far(change.into()));
        }
        let reason = match (jump, was_off) {
            (Some(_), _) => Reason::Plan,
            (None, true) => Reason::OffCourse,
            (None, false) => Reason::PlanSkips,
        };
        let record = StepRecord { decision: reason.decision(), residual_diff: change };
        self.stats.record_all(record);
        self.step += 1;
        let way = match jump {
            _ if self.is_off => Way::Step,
            Some(jump) => Way::Jump(jump),
            None => Way::Onward,
        };
        (record, way)
    }

    /// Statistics of the computed and skipped steps so far.
    pub fn stats(&self) -> &CacheStats {
        &self.stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibrated::{FittedPlan, Psnr, VelocityChange};

    const SEGMENTS: [Segment; 2] =
        [Segment { name: "transformer_blocks", num_blocks: 5 }, Segment { name: "single", num_blocks: 20 }];

    /// A plan that computes steps 0, 3 and 6 of 9, measured with changes of about 0.1 between them.
    fn course(changes: usize) -> Course {
        let plan = FittedPlan {
            computed: vec![0, 3, 6],
            jumps: vec![Jump { velocities: vec![1.0], latents: 0.5 }; 3],
            changes: vec![VelocityChange::of(&[0.09, 0.11]); changes],
            psnr: Psnr::of(vec![50.0]),
        };
        Course::new(RunPlan::new(&plan, 9, 9), &SEGMENTS, 2)
    }

    /// One letter per step: Jump, onward (`o`) or Step.
    fn run(course: &mut Course, change: impl Fn(usize) -> f32) -> String {
        let mut ways = String::new();
        for step in 0..9 {
            let (computes, guarded) = (course.computes(), course.is_guarded());
            let (record, way) = course.advance(guarded.then(|| change(step)));
            assert_eq!(record.decision.reused(), !computes, "step {step}");
            ways.push(match way {
                Way::Jump(_) => 'J',
                Way::Onward => 'o',
                Way::Step => 'S',
            });
        }
        ways
    }

    #[test]
    fn a_run_as_those_that_were_measured_skips_what_the_plan_skips() {
        let mut course = course(2);
        assert_eq!(run(&mut course, |_| 0.1), "JooJooJoo");
        assert_eq!((course.stats().runs().len(), course.stats().speedup_estimate()), (4, 3.0));
        let run = &course.stats().runs()[3];
        assert_eq!((run.decisions().as_str(), run.residual_diffs().unwrap().max), ("1CC1CC1CC", 0.1));
    }

    #[test]
    fn far_off_the_steps_behind_are_computed_up_to_the_next_of_the_plan() {
        let mut course = course(2);
        assert_eq!(run(&mut course, |step| if step == 3 { 0.9 } else { 0.1 }), "JooSSSJoo");
        let run = &course.stats().runs()[0];
        assert_eq!(run.decisions(), "1CC1111CC");
        assert_eq!(run.by_reason(), [(Reason::OffCourse, 2), (Reason::Plan, 3), (Reason::PlanSkips, 4)]);
    }

    #[test]
    fn to_the_end_where_the_last_one_is_off_and_for_a_change_that_is_no_number() {
        assert_eq!(run(&mut course(2), |step| if step == 6 { f32::NAN } else { 0.1 }), "JooJooSSS");
        assert_eq!(run(&mut course(2), |_| 2.0), "JooSSSSSS");
    }

    #[test]
    fn a_calibration_that_knows_of_no_changes_has_no_guard() {
        let mut course = course(0);
        assert!(!course.is_guarded());
        assert_eq!(run(&mut course, |_| 2.0), "JooJooJoo");
    }
}
