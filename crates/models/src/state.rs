//! The state that a request carries from step to step.

use std::sync::Arc;

use candle_core::Tensor;
use diffusion::{CfgBranch, EncodingsUse, Fit, Guidance, ImageSize, Previews, Sampler, Sigmas};

use crate::dit::ReferenceLatents;
use crate::learning::LearningRun;
use crate::mask::MaskedEdit;
use crate::planned::PlannedRun;
use crate::residuals::RequestResiduals;
use crate::solver::Solver;

/// A request between two steps. A clone shares the tensors.
#[derive(Clone)]
pub struct RequestState {
    // Set once, when the request is prepared.
    /// Size at which the picture is generated.
    pub(crate) size: ImageSize,
    /// How the picture is brought to the requested size, if that differs.
    pub(crate) fit: Option<Fit>,
    pub(crate) sigmas: Sigmas,
    pub(crate) guidance: Guidance,
    pub(crate) previews: Option<Previews>,
    pub(crate) branches: Vec<Branch>,
    /// The pictures to edit.
    pub(crate) references: Arc<[ReferenceLatents]>,
    /// Set for an edit under a mask.
    pub(crate) masked: Option<MaskedEdit>,
    pub(crate) prompt_tokens: usize,
    pub(crate) encodings: EncodingsUse,
    /// Warnings for the client, as sentences.
    pub(crate) warnings: Vec<String>,
    // Updated by every step.
    pub(crate) residuals: Option<RequestResiduals>,
    pub(crate) planned: Option<PlannedRun>,
    /// Set if plans are learnt from the request.
    pub(crate) learning: Option<LearningRun>,
    pub(crate) latents: Tensor,
    pub(crate) solver: Solver,
    /// Clean latents estimated by the last step, if a preview is due after it.
    pub(crate) estimate: Option<Tensor>,
    /// Transformer evaluations done so far.
    pub(crate) step_index: usize,
}

/// One transformer pass of a request.
#[derive(Clone)]
pub(crate) struct Branch {
    pub(crate) branch: CfgBranch,
    /// The text stream, `[tokens, width]`.
    pub(crate) prompt_embeds: Tensor,
}

impl RequestState {
    /// Returns the packed latents, `[image_seq_len, channels]` in f32.
    pub fn latents(&self) -> &Tensor {
        &self.latents
    }

    /// Returns what the step cache or the plan computed and reused so far, if the request has one.
    pub fn cache_stats(&self) -> Option<&cache::CacheStats> {
        let of_plan = self.planned.as_ref().map(PlannedRun::stats);
        self.residuals.as_ref().map(RequestResiduals::stats).or(of_plan)
    }

    /// Returns the clean latents as estimated by the last step, `x - sigma v` with guidance, in the shape of
    /// [`RequestState::latents`]. They are known after the last step and after steps with a due preview.
    pub fn clean_latents(&self) -> Option<&Tensor> {
        let is_finished = self.step_index == self.num_steps();
        if is_finished { Some(&self.latents) } else { self.estimate.as_ref() }
    }

    /// Drops the tensors that only further steps would need.
    pub(crate) fn release(&mut self) {
        (self.residuals, self.planned, self.estimate, self.references) = (None, None, None, Arc::default());
        self.solver = Solver::new(self.sampler());
        self.branches.clear();
    }

    /// Replaces the latents by others of the same shape.
    pub fn with_latents(self, latents: Tensor) -> Self {
        debug_assert_eq!(latents.dims(), self.latents.dims());
        RequestState { latents, ..self }
    }

    /// Returns the request before step `step`, with these latents.
    pub fn resumed_at(self, step: usize, latents: Tensor) -> Self {
        debug_assert!(step <= self.num_steps());
        RequestState { step_index: step, ..self.with_latents(latents) }
    }

    /// Returns the text stream of a guidance branch, `[tokens, width]`, if the request runs the branch.
    pub fn prompt_embeds(&self, branch: CfgBranch) -> Option<&Tensor> {
        self.branches.iter().find(|b| b.branch == branch).map(|b| &b.prompt_embeds)
    }

    /// Returns the pictures to edit, as the transformer sees them.
    pub fn references(&self) -> &[ReferenceLatents] {
        &self.references
    }

    /// Returns the next step, from 0, counted in evaluations of the transformer.
    pub fn step_index(&self) -> usize {
        self.step_index
    }

    /// Returns the total number of steps, counted in evaluations of the transformer.
    pub fn num_steps(&self) -> usize {
        self.sampler().num_evaluations(self.sigmas.num_inference_steps())
    }

    /// Whether the transformer runs in the next step.
    pub(crate) fn is_evaluated(&self) -> bool {
        self.planned.as_ref().is_none_or(PlannedRun::computes)
    }

    /// Returns the sampler.
    pub fn sampler(&self) -> Sampler {
        self.solver.sampler()
    }

    /// Returns the noise levels of all steps.
    pub fn sigmas(&self) -> &Sigmas {
        &self.sigmas
    }
}
