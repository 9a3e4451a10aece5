//! A request that follows a plan: some steps are computed, and each of them jumps straight to the next computed one.

use std::collections::VecDeque;

use cache::{CacheStats, Calibration, Course, Jump, MEMORY, RunPlan, StepRecord, Way};
use candle_core::{Result, Tensor};
use diffusion::Guidance;
use kernels::add_weighted;

use crate::dit::BlockList;

/// State of a request and its plan between two steps. A clone shares the tensors.
#[derive(Clone)]
pub struct PlannedRun {
    course: Course,
    /// Guided velocities of the last steps that the plan computed, newest first.
    velocities: VecDeque<Tensor>,
    /// Velocity of the current jump.
    velocity: Option<Tensor>,
}

impl PlannedRun {
    /// Creates the state before the first step, for a request with `branches` passes per computed step.
    pub fn new(plan: RunPlan, segments: &[BlockList], branches: usize) -> Self {
        let named: Vec<_> = segments.iter().map(BlockList::named).collect();
        let course = Course::new(plan, &named, branches);
        PlannedRun { course, velocities: VecDeque::new(), velocity: None }
    }

    /// Whether the transformer runs in the next step.
    pub fn computes(&self) -> bool {
        self.course.computes()
    }

    /// Returns how many of the next steps are computed although the plan skips them.
    pub(crate) fn also_computed(&self) -> usize {
        self.course.also_computed()
    }

    /// Returns what was computed and skipped so far.
    pub fn stats(&self) -> &CacheStats {
        self.course.stats()
    }

    /// Returns the velocity with which the next one is to be compared, if any.
    pub(crate) fn compared(&self) -> Option<&Tensor> {
        self.velocities.front().filter(|_| self.course.is_guarded())
    }

    /// Takes the next step from these latents. `found` is the velocity of a computed step, and `change` its measured
    /// change if it was compared. Returns the step's record and the velocity to the next level.
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
        // A copy: a single pass's velocity is a view, which would keep the whole batch's velocities alive.
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

    /// Most tensors of the latents' size that a step holds beside its input and output: the velocities, that of the
    /// jump, and the previous ones that a step replaces.
    pub(crate) const MOST_KEPT: usize = MEMORY + 3;
}

/// Returns the velocity of a jump that starts from `latents`. `velocities` are those of the last computed steps, newest
/// first.
///
/// # Errors
/// The device fails.
pub fn along_jump(jump: &Jump, latents: &Tensor, velocities: &VecDeque<Tensor>) -> Result<Tensor> {
    let terms: Vec<_> = jump.velocities.iter().copied().zip(velocities).collect();
    match (jump.latents, &terms[..]) {
        // Euler's own velocity, bit for bit.
        (0.0, [(1.0, velocity)]) => Ok((*velocity).clone()),
        _ => add_weighted(&(latents * jump.latents)?, &terms),
    }
}

/// Returns a warning for the client if the request's guidance differs from the guidance of the calibration.
pub(crate) fn other_guidance(calibration: &Calibration, guidance: Guidance) -> Option<String> {
    let asked = guidance.two_pass_scale();
    let (measured, scale) = calibration.guidance.zip(asked).filter(|_| !calibration.is_measured_at(asked))?;
    Some(format!(
        "planned from pictures at guidance {measured}: at {scale} the picture may differ more from the uncached one than promised"
    ))
}
