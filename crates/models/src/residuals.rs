//! What the step cache keeps of one request: residuals as tensors, beside the rules as numbers.

use std::collections::VecDeque;

use cache::{CacheConfig, CacheStats, CacheType, RequestCache, StepCache, Stream, Warning};
use candle_core::{Result, Tensor};
use kernels::add_weighted;

use crate::dit::Segment;

/// The cache of one request: the state machine and what it speaks of. It ends with the request.
///
/// A clone shares the tensors; both may go on apart.
#[derive(Clone)]
pub struct RequestResiduals {
    pub(crate) rules: RequestCache,
    /// `stored[segment][branch]`
    stored: Vec<Vec<Stored>>,
}

/// What one branch keeps of one segment.
#[derive(Clone, Default)]
struct Stored {
    /// What the first blocks added in the last computed step, `[tokens, dim]`.
    first_blocks: Option<Tensor>,
    /// What the middle blocks added to each stream in the last computed steps, newest first.
    hidden: VecDeque<Tensor>,
    encoder: VecDeque<Tensor>,
}

impl RequestResiduals {
    /// An empty cache of a request that makes `branches` passes a step, or none where nothing could
    /// ever be reused; and what the sender should know.
    pub fn new(
        config: &CacheConfig,
        num_inference_steps: usize,
        segments: &[Segment],
        branches: usize,
    ) -> (Option<Self>, Vec<Warning>) {
        if config.never_reuses() {
            return (None, Vec::new());
        }
        let named: Vec<_> = segments
            .iter()
            .map(|segment| cache::Segment { name: segment.name, num_blocks: segment.num_blocks })
            .collect();
        let (rules, warnings) = RequestCache::new(config, num_inference_steps, &named, branches);
        let stored = segments.iter().map(|_| (0..branches).map(|_| Stored::default()).collect()).collect();
        (Some(RequestResiduals { rules, stored }), warnings)
    }

    /// The configuration that the request runs under.
    pub fn config(&self) -> &CacheConfig {
        self.rules.config()
    }

    /// What was computed and reused so far.
    pub fn stats(&self) -> &CacheStats {
        self.rules.stats()
    }

    /// What the first blocks of this branch added in the last computed step.
    pub(crate) fn first_blocks(&self, segment: usize, branch: usize) -> Option<&Tensor> {
        self.stored[segment][branch].first_blocks.as_ref()
    }

    /// Remembers what the first blocks add in a step that is computed.
    pub(crate) fn store_first_blocks(&mut self, segment: usize, branch: usize, residual: Tensor) {
        self.stored[segment][branch].first_blocks = Some(residual);
    }

    /// Remembers what the middle blocks made of `input` in a computed step, and forgets what no
    /// forecast will ask for again.
    pub(crate) fn store(&mut self, at: At, stream: Stream, input: &Tensor, output: &Tensor) -> Result<()> {
        let value = match self.config().cache_type(stream) {
            CacheType::Residual => (output - input)?,
            // A copy: the output is a view, and would hold the streams of the whole batch.
            CacheType::HiddenStates => output.force_contiguous()?,
        };
        let keep = self.step_cache(at).keep(stream);
        let history = self.history_mut(at, stream);
        history.push_front(value);
        history.truncate(keep);
        Ok(())
    }

    /// The stream `x` past the middle blocks, which did not run: a weighted sum of what they added
    /// before, or of what they put out where the configuration stores that.
    pub(crate) fn forecast(&self, at: At, stream: Stream, x: &Tensor) -> Result<Tensor> {
        let weights = self.step_cache(at).weights(stream);
        let terms: Vec<_> = weights.iter().copied().zip(self.history(at, stream)).collect();
        match (self.config().cache_type(stream), &terms[..]) {
            (CacheType::Residual, terms) => add_weighted(x, terms),
            (CacheType::HiddenStates, [(weight, newest), older @ ..]) => add_weighted(&(*newest * *weight)?, older),
            (CacheType::HiddenStates, []) => Ok(x.clone()),
        }
    }

    fn step_cache(&self, at: At) -> &StepCache {
        self.rules.branch(at.segment, at.branch)
    }

    fn history(&self, at: At, stream: Stream) -> &VecDeque<Tensor> {
        let stored = &self.stored[at.segment][at.branch];
        match stream {
            Stream::Hidden => &stored.hidden,
            Stream::Encoder => &stored.encoder,
        }
    }

    fn history_mut(&mut self, at: At, stream: Stream) -> &mut VecDeque<Tensor> {
        let stored = &mut self.stored[at.segment][at.branch];
        match stream {
            Stream::Hidden => &mut stored.hidden,
            Stream::Encoder => &mut stored.encoder,
        }
    }
}

/// One row's place in its request's cache.
#[derive(Clone, Copy)]
pub(crate) struct At {
    pub(crate) segment: usize,
    pub(crate) branch: usize,
}
