//! A request that follows a plan: some steps are computed, and from each the latents go straight to the next.

use std::collections::VecDeque;

use cache::{CacheStats, Calibration, Course, Jump, MEMORY, RunPlan, StepRecord, Way};
use candle_core::{Result, Tensor};
use diffusion::Guidance;
use kernels::add_weighted;

use crate::dit::Segment;

/// What a plan and its request know between two steps. A clone shares the tensors.
#[derive(Clone)]
pub struct PlannedRun {
    course: Course,
    /// With guidance, of the last steps that the plan computes, the newest first.
    velocities: VecDeque<Tensor>,
    /// Of the way that it is on.
    velocity: Option<Tensor>,
}

impl PlannedRun {
    /// Before the first step of a request that makes `branches` passes in a computed step.
    pub fn new(plan: RunPlan, segments: &[Segment], branches: usize) -> Self {
        let named: Vec<_> = segments.iter().map(Segment::named).collect();
        let course = Course::new(plan, &named, branches);
        PlannedRun { course, velocities: VecDeque::new(), velocity: None }
    }

    /// Whether the transformer runs in the next step.
    pub fn computes(&self) -> bool {
        self.course.computes()
    }

    /// How many of the steps that come next are computed though the plan skips them.
    pub(crate) fn also_computed(&self) -> usize {
        self.course.also_computed()
    }

    /// What was computed and skipped so far.
    pub fn stats(&self) -> &CacheStats {
        self.course.stats()
    }

    /// What the velocity of the next step is to be compared with, if it is.
    pub(crate) fn compared(&self) -> Option<&Tensor> {
        self.velocities.front().filter(|_| self.course.is_guarded())
    }

    /// Takes the next step from these latents; `found` is the velocity of a step that is computed, and `change` how much of it is
    /// new where it was compared. What was done, and the velocity to the next level.
    ///
    /// # Errors
    /// The device fails.
    pub(crate) fn advance(
        &mut self,
        latents: &Tensor,
        found: Option<Tensor>,
        change: Option<f32>,
    ) -> Result<(StepRecord, Tensor)> {
        let is_planned = self.course.is_planned();
        // A copy: of a single pass the velocity is a view, and would hold those of the whole batch.
        let found = found.map(|found| found.force_contiguous()).transpose()?;
        if let Some(found) = found.as_ref().filter(|_| is_planned) {
            self.velocities.push_front(found.clone());
            self.velocities.truncate(MEMORY);
        }
        let (record, way) = self.course.advance(change);
        let velocity = match way {
            Way::Jump(jump) => Some(along_jump(jump, latents, &self.velocities)?),
            Way::Step => found,
            Way::Onward => self.velocity.take(),
        };
        let velocity =
            velocity.expect("the first step of a plan is computed, and a step that is has a velocity. This is a bug.");
        self.velocity = Some(velocity.clone());
        Ok((record, velocity))
    }

    /// Tensors as large as the latents that a step holds beside those before and after it, at most: the velocities, that of the
    /// jump, and of both the ones before that a step replaces.
    pub(crate) const MOST_KEPT: usize = MEMORY + 3;
}

/// The velocity of a jump that starts from these latents, with those of the last computed steps, the newest first.
///
/// # Errors
/// The device fails.
pub fn along_jump(jump: &Jump, latents: &Tensor, velocities: &VecDeque<Tensor>) -> Result<Tensor> {
    let terms: Vec<_> = jump.velocities.iter().copied().zip(velocities).collect();
    match (jump.latents, &terms[..]) {
        // Euler's own, to the bit.
        (0.0, [(1.0, velocity)]) => Ok((*velocity).clone()),
        _ => add_weighted(&(latents * jump.latents)?, &terms),
    }
}

/// What the sender of a request should know whose guidance is not what its plan was measured at.
pub(crate) fn other_guidance(calibration: &Calibration, guidance: Guidance) -> Option<String> {
    let asked = guidance.two_pass_scale();
    let (measured, scale) = calibration.guidance.zip(asked).filter(|_| !calibration.is_measured_at(asked))?;
    Some(format!(
        "planned from pictures at guidance {measured}: at {scale} it may be less like the picture of all steps than promised"
    ))
}
