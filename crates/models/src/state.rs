//! What one request carries from step to step.

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
    /// That is made.
    pub(crate) size: ImageSize,
    /// How the picture gets the size asked for.
    pub(crate) fit: Option<Fit>,
    pub(crate) sigmas: Sigmas,
    pub(crate) guidance: Guidance,
    pub(crate) previews: Option<Previews>,
    pub(crate) branches: Vec<Branch>,
    /// The pictures to edit.
    pub(crate) references: Arc<[ReferenceLatents]>,
    /// Of an edit under a mask.
    pub(crate) masked: Option<MaskedEdit>,
    pub(crate) prompt_tokens: usize,
    pub(crate) encodings: EncodingsUse,
    /// What the sender should know, in sentences.
    pub(crate) warnings: Vec<String>,
    // Moved on by every step.
    pub(crate) residuals: Option<RequestResiduals>,
    pub(crate) planned: Option<PlannedRun>,
    /// Of a request that plans are learnt from.
    pub(crate) learning: Option<LearningRun>,
    pub(crate) latents: Tensor,
    pub(crate) solver: Solver,
    /// The clean latents as the last step foresees them, if a preview is due after it.
    pub(crate) estimate: Option<Tensor>,
    /// Evaluations of the transformer so far.
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
    /// The packed latents, `[image_seq_len, channels]` in f32.
    pub fn latents(&self) -> &Tensor {
        &self.latents
    }

    /// What the step cache computed and reused so far, if the request has one.
    pub fn cache_stats(&self) -> Option<&cache::CacheStats> {
        let of_plan = self.planned.as_ref().map(PlannedRun::stats);
        self.residuals.as_ref().map(RequestResiduals::stats).or(of_plan)
    }

    /// The clean latents as the last step foresees them, `x - sigma v` with guidance, of the shape of
    /// [`RequestState::latents`]: known after the steps that a preview is due after, and after the last.
    pub fn clean_latents(&self) -> Option<&Tensor> {
        let is_finished = self.step_index == self.num_steps();
        if is_finished { Some(&self.latents) } else { self.estimate.as_ref() }
    }

    /// Lets go what only further steps would need.
    pub(crate) fn release(&mut self) {
        (self.residuals, self.planned, self.estimate, self.references) = (None, None, None, Arc::default());
        self.solver = Solver::new(self.sampler());
        self.branches.clear();
    }

    /// The same request with other latents, of the shape that [`RequestState::latents`] has.
    pub fn with_latents(self, latents: Tensor) -> Self {
        debug_assert_eq!(latents.dims(), self.latents.dims());
        RequestState { latents, ..self }
    }

    /// The same request before the step `step`, with these latents.
    pub fn resumed_at(self, step: usize, latents: Tensor) -> Self {
        debug_assert!(step <= self.num_steps());
        RequestState { step_index: step, ..self.with_latents(latents) }
    }

    /// The text stream of a guidance branch, `[tokens, width]`, if the request runs it.
    pub fn prompt_embeds(&self, branch: CfgBranch) -> Option<&Tensor> {
        self.branches.iter().find(|b| b.branch == branch).map(|b| &b.prompt_embeds)
    }

    /// The pictures to edit, as the transformer sees them.
    pub fn references(&self) -> &[ReferenceLatents] {
        &self.references
    }

    /// The step that comes next, from 0: an evaluation of the transformer.
    pub fn step_index(&self) -> usize {
        self.step_index
    }

    /// Steps in all: evaluations of the transformer.
    pub fn num_steps(&self) -> usize {
        self.sampler().num_evaluations(self.sigmas.num_inference_steps())
    }

    /// Whether the transformer runs in the next step.
    pub(crate) fn is_evaluated(&self) -> bool {
        self.planned.as_ref().is_none_or(PlannedRun::computes)
    }

    /// What takes the steps.
    pub fn sampler(&self) -> Sampler {
        self.solver.sampler()
    }

    /// The noise levels of all steps.
    pub fn sigmas(&self) -> &Sigmas {
        &self.sigmas
    }
}
