//! What one request carries from step to step.

use std::sync::Arc;

use candle_core::Tensor;
use diffusion::{CfgBranch, EncodingsUse, Fit, Guidance, ImageSize, Previews, Sampler, Sigmas};

use crate::dit::ReferenceLatents;
use crate::mask::MaskedEdit;
use crate::residuals::{Products, RequestResiduals};
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
        self.residuals.as_ref().map(RequestResiduals::stats)
    }

    /// The products that a request with [`CollectProducts`](crate::CollectProducts) has collected so far, `[segment][branch]`.
    pub fn products(&self) -> Option<&Vec<Vec<Products>>> {
        self.residuals.as_ref()?.products()
    }

    /// The clean latents as the last step foresees them, `x - sigma v` with guidance, of the shape of
    /// [`RequestState::latents`]: known after the steps that a preview is due after, and after the last.
    pub fn clean_latents(&self) -> Option<&Tensor> {
        let is_finished = self.step_index == self.num_steps();
        if is_finished { Some(&self.latents) } else { self.estimate.as_ref() }
    }

    /// Lets go what only further steps would need.
    pub(crate) fn release(&mut self) {
        (self.residuals, self.estimate, self.references) = (None, None, Arc::default());
        self.solver = Solver::new(self.sampler());
        self.branches.clear();
    }

    /// The same request from other noise, of the shape that [`RequestState::latents`] has.
    pub fn with_latents(self, latents: Tensor) -> Self {
        debug_assert_eq!(latents.dims(), self.latents.dims());
        RequestState { latents, ..self }
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

    /// What takes the steps.
    pub fn sampler(&self) -> Sampler {
        self.solver.sampler()
    }

    /// The noise levels of all steps.
    pub fn sigmas(&self) -> &Sigmas {
        &self.sigmas
    }
}
