//! What a request will take, known before it starts.

use std::sync::Arc;

use crate::{ImageRequest, KnownSteps, Previews, RequestMemory};

/// The size of a request's work, for admission and for deciding what steps together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RequestCost {
    /// Image tokens of one transformer pass: of the picture that is made.
    pub tokens: usize,
    /// Transformer passes of one step: two under classifier-free guidance.
    pub passes: usize,
    /// Steps of a pipeline: evaluations of the transformer.
    pub steps: usize,
    /// The pictures on the way that it wants.
    pub previews: Option<Previews>,
    /// What each of its stages computes.
    pub work: Work,
    /// The memory that it needs.
    pub memory: RequestMemory,
    /// The share of the blocks that runs in a step of which every pass is reused: 0 for a request that follows a plan, 1 for
    /// one without a step cache.
    pub least_share: f64,
    /// The steps that it computes, where a plan or a static mask says so beforehand. `None` where that is decided on the way.
    pub known: Option<KnownSteps>,
    /// Requests of the same kind, those with the same cache settings and step count, are expected to
    /// reuse alike where that is decided on the way.
    pub kind: u64,
}

/// Floating point operations, about: a multiplication and its addition are two.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Of its prompts and pictures, none of them known already.
    pub encode: f64,
    /// Of a denoising step, over all passes, in which nothing is reused.
    pub step: f64,
    /// Of a step in which everything is reused that the step cache can reuse.
    pub reused_step: f64,
    /// Of one preview.
    pub preview: f64,
    /// Of the latents that become a picture.
    pub decode: f64,
    /// Of the picture, or a preview, that is brought to the size asked for.
    pub fit: f64,
}

/// What a token takes of a network of which nothing is known: one of half a billion weights.
pub const TOKEN_WORK: f64 = 1e9;

/// Tokens of a prompt, about: common tokenizers make one of four bytes, whatever the language.
pub fn expected_tokens(prompt: &str) -> usize {
    prompt.len().div_ceil(4)
}

/// Tells the cost of a request, from any thread: a pipeline leaves it with its scheduler.
pub type Estimator = Arc<dyn Fn(&ImageRequest) -> RequestCost + Send + Sync>;

impl RequestCost {
    /// The cost of a request to a pipeline of which nothing is known: it holds nothing and reuses nothing, and
    /// each token of the picture, or in encoding each of the prompt, is [`TOKEN_WORK`].
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

    /// What a step computes that runs this share of the blocks, from [`RequestCost::least_share`] to 1.
    pub fn step_work(&self, computed_share: f64) -> f64 {
        let Work { step, reused_step, .. } = self.work;
        let reusable = 1.0 - self.least_share;
        if reusable <= 0.0 {
            return step;
        }
        let computed = ((computed_share - self.least_share) / reusable).clamp(0.0, 1.0);
        reused_step + (step - reused_step) * computed
    }

    /// Previews that are due after the first `steps_taken` steps.
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
        // What runs beside the blocks, 10, is no part of the share.
        assert_eq!([1.0, 0.1, 0.55, 0.0].map(|share| cost.step_work(share)), [110.0, 20.0, 65.0, 20.0]);
        cost.least_share = 1.0;
        assert_eq!(cost.step_work(0.5), 110.0, "there is nothing to reuse");
    }
}
