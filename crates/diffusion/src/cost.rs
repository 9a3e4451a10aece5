//! The predicted cost of a request, known before it starts.

use std::sync::Arc;

use crate::{ImageRequest, KnownSteps, Previews, RequestMemory};

/// The size of a request's work, for admission and for deciding which requests step together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RequestCost {
    /// Image tokens of the output picture in one transformer pass.
    pub tokens: usize,
    /// Transformer passes per step: two under classifier-free guidance.
    pub passes: usize,
    /// Pipeline steps: evaluations of the transformer.
    pub steps: usize,
    /// The previews that the request asks for.
    pub previews: Option<Previews>,
    /// The work of each stage.
    pub work: Work,
    /// The device memory that the request needs.
    pub memory: RequestMemory,
    /// Share of the blocks that runs in a step whose every pass is reused: 0 for a request that follows a plan, 1 for a
    /// request without a step cache.
    pub least_share: f64,
    /// The computed steps, if a plan or a static mask fixes them beforehand. `None` if the step cache decides during
    /// the run.
    pub known: Option<KnownSteps>,
    /// Identifies requests with the same cache settings and step count. If the step cache decides during the run, they
    /// are expected to reuse alike.
    pub kind: u64,
}

/// Approximate floating point operations; a multiply-add counts as two.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Encoding the prompts and pictures, with no cached encodings.
    pub encode: f64,
    /// One denoising step over all passes, with nothing reused.
    pub step: f64,
    /// One step that reuses everything the step cache can reuse.
    pub reused_step: f64,
    /// One preview.
    pub preview: f64,
    /// Decoding the latents to a picture.
    pub decode: f64,
    /// Resizing the picture, or a preview, to the requested size.
    pub fit: f64,
}

/// Work per token of an unknown network: that of half a billion weights.
pub const TOKEN_WORK: f64 = 1e9;

/// Approximate number of tokens of a prompt. Common tokenizers average four bytes a token in any language.
pub fn expected_tokens(prompt: &str) -> usize {
    prompt.len().div_ceil(4)
}

/// Estimates the cost of a request, on any thread. A pipeline hands one to its scheduler.
pub type Estimator = Arc<dyn Fn(&ImageRequest) -> RequestCost + Send + Sync>;

impl RequestCost {
    /// The cost of a request for an unknown pipeline. Such a pipeline is assumed to hold no memory and to reuse
    /// nothing. Each picture token costs [`TOKEN_WORK`], as does each prompt token in encoding.
    pub fn uncached(request: &ImageRequest) -> Self {
        let (tokens, passes) = (request.params.size.image_seq_len(), request.params.guidance.branches().len());
        let encode = expected_tokens(&request.prompt) as f64 * TOKEN_WORK;
        let picture = tokens as f64 * TOKEN_WORK;
        let step = picture * passes as f64;
        RequestCost {
            tokens,
            passes,
            steps: request.params.num_evaluations(),
            previews: request.previews,
            work: Work { encode, step, reused_step: step, preview: picture, decode: picture, fit: 0.0 },
            memory: RequestMemory::default(),
            least_share: 1.0,
            known: None,
            kind: 0,
        }
    }

    /// Work of a step that runs this share of the blocks, from [`RequestCost::least_share`] to 1.
    pub fn step_work(&self, computed_share: f64) -> f64 {
        let Work { step, reused_step, .. } = self.work;
        let reusable = 1.0 - self.least_share;
        if reusable <= 0.0 {
            return step;
        }
        let computed = ((computed_share - self.least_share) / reusable).clamp(0.0, 1.0);
        reused_step + (step - reused_step) * computed
    }

    /// Number of previews due within the first `steps_taken` steps.
    pub fn previews_due(&self, steps_taken: usize) -> usize {
        self.previews.map_or(0, |previews| previews.due_by(steps_taken, self.steps))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_what_always_runs_and_the_computed_part_of_the_rest() {
        let work = Work { step: 110.0, reused_step: 20.0, ..Work::default() };
        let mut cost = RequestCost {
            tokens: 1,
            passes: 1,
            steps: 1,
            previews: None,
            work,
            memory: RequestMemory::default(),
            // One block of ten.
            least_share: 0.1,
            known: None,
            kind: 0,
        };
        // The work outside the blocks, 10, is not part of the share.
        assert_eq!([1.0, 0.1, 0.55, 0.0].map(|share| cost.step_work(share)), [110.0, 20.0, 65.0, 20.0]);
        cost.least_share = 1.0;
        assert_eq!(cost.step_work(0.5), 110.0, "there is nothing to reuse");
    }
}
