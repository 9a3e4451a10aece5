//! A request that follows a plan: some steps are computed, and from each the latents go straight to the next.

use std::collections::VecDeque;
use std::sync::Arc;

use cache::{CacheStats, Jump, MEMORY, RequestCache, RowObservation, RunPlan, StepRecord};
use candle_core::{Result, Tensor};
use kernels::add_weighted;

use crate::dit::Segment;

/// What a plan and its request know between two steps. A clone shares the tensors.
#[derive(Clone)]
pub struct PlannedRun {
    plan: Arc<RunPlan>,
    rules: RequestCache,
    num_segments: usize,
    branches: usize,
    /// With guidance, of the last computed steps, the newest first.
    velocities: VecDeque<Tensor>,
    /// Of the jump that it is on.
    velocity: Option<Tensor>,
}

impl PlannedRun {
    /// Before the first step of a request that makes `branches` passes in a computed step.
    pub fn new(plan: RunPlan, segments: &[Segment], branches: usize) -> Self {
        let named: Vec<_> = segments.iter().map(Segment::named).collect();
        PlannedRun {
            rules: RequestCache::planned(&plan, &named, branches),
            plan: Arc::new(plan),
            num_segments: segments.len(),
            branches,
            velocities: VecDeque::new(),
            velocity: None,
        }
    }

    /// Whether the transformer runs in this step.
    pub fn computes(&self, step: usize) -> bool {
        self.plan.jump(step).is_some()
    }

    /// What was computed and skipped so far.
    pub fn stats(&self) -> &CacheStats {
        self.rules.stats()
    }

    /// Notes the next step; `[segment][branch]`.
    pub(crate) fn decide(&mut self) -> Vec<Vec<StepRecord>> {
        let rows = vec![RowObservation { tokens: 1, residual_diff: None }; self.branches];
        (0..self.num_segments).map(|segment| self.rules.decide(segment, &rows)).collect()
    }

    /// The velocity from these latents to the next step: of the jump that begins, where the step is computed and found one,
    /// else of the one that goes on.
    ///
    /// # Errors
    /// The device fails.
    pub(crate) fn velocity(&mut self, step: usize, latents: &Tensor, found: Option<Tensor>) -> Result<Tensor> {
        if let (Some(jump), Some(found)) = (self.plan.jump(step), found) {
            // A copy: of a single pass the velocity is a view, and would hold those of the whole batch.
            self.velocities.push_front(found.force_contiguous()?);
            self.velocities.truncate(MEMORY);
            self.velocity = Some(along_jump(jump, latents, &self.velocities)?);
        }
        Ok(self.velocity.clone().expect("the first step of a plan is computed. This is a bug."))
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
