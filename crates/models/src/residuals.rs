//! What the step cache keeps of one request: residuals as tensors, beside the rules as numbers.

use std::collections::VecDeque;

use cache::{CacheConfig, CacheStats, CacheType, RequestCache, StepCache, Stream, Warning};
use candle_core::{Result, Tensor};
use kernels::WeightedTensors;

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
        let named: Vec<_> = segments.iter().map(Segment::named).collect();
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

    /// What is to be remembered of middle blocks that made `output` of `input`, as a weighted sum.
    pub(crate) fn remembered<'t>(&self, stream: Stream, input: &'t Tensor, output: &'t Tensor) -> WeightedTensors<'t> {
        match self.config().cache_type(stream) {
            CacheType::Residual => vec![(1.0, output), (-1.0, input)],
            CacheType::HiddenStates => vec![(1.0, output)],
        }
    }

    /// Remembers that of a computed step, and forgets what no forecast will ask for again.
    pub(crate) fn store(&mut self, at: At, stream: Stream, value: Tensor) -> Result<()> {
        let keep = self.step_cache(at).keep(stream);
        let history = self.history_mut(at, stream);
        history.push_front(value);
        history.truncate(keep);
        Ok(())
    }

    /// The stream `x` past the middle blocks, which did not run, as a weighted sum: of it and of what they added before,
    /// or of what they put out where the configuration stores that.
    pub(crate) fn forecast<'t>(&'t self, at: At, stream: Stream, x: &'t Tensor) -> WeightedTensors<'t> {
        let weights = self.step_cache(at).weights(stream);
        let terms = weights.iter().copied().zip(self.history(at, stream));
        match self.config().cache_type(stream) {
            CacheType::HiddenStates if terms.len() > 0 => terms.collect(),
            CacheType::Residual | CacheType::HiddenStates => std::iter::once((1.0, x)).chain(terms).collect(),
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
