//! What a request will take, known before it starts.

use std::sync::Arc;

use crate::ImageRequest;

/// The size of a request's work, for admission and for deciding what steps together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RequestCost {
    /// Image tokens of one transformer pass: of the picture that is made.
    pub tokens: usize,
    /// Tokens of the pictures to edit in one transformer pass.
    pub reference_tokens: usize,
    /// Text tokens of one transformer pass, about.
    pub text_tokens: usize,
    /// Transformer passes of one step: two under classifier-free guidance.
    pub passes: usize,
    /// Denoising steps.
    pub steps: usize,
    /// Most bytes of device memory that its state holds at a time.
    pub bytes: u64,
    /// The share of the blocks that runs in a step of which every pass is reused, above 0; 1 for a
    /// request without a step cache.
    pub least_share: f64,
    /// Requests of the same kind, those with the same cache settings and step count, are expected to
    /// reuse alike.
    pub kind: u64,
}

/// Tokens of a prompt, about: common tokenizers make one of four bytes, whatever the language.
pub fn expected_tokens(prompt: &str) -> usize {
    prompt.len().div_ceil(4)
}

/// Tells the cost of a request, from any thread: a pipeline leaves it with its scheduler.
pub type Estimator = Arc<dyn Fn(&ImageRequest) -> RequestCost + Send + Sync>;

impl RequestCost {
    /// The cost of a request that holds nothing and reuses nothing.
    pub fn uncached(request: &ImageRequest) -> Self {
        RequestCost {
            tokens: request.params.size.image_seq_len(),
            reference_tokens: 0,
            text_tokens: expected_tokens(&request.prompt),
            passes: request.params.guidance.branches().len(),
            steps: request.params.num_inference_steps,
            bytes: 0,
            least_share: 1.0,
            kind: 0,
        }
    }

    /// Tokens of all passes of one step, about.
    pub fn step_tokens(&self) -> usize {
        (self.tokens + self.reference_tokens + self.text_tokens) * self.passes
    }
}
