//! A request's step cache: the residual tensors, beside the cache crate's rules.

use std::collections::VecDeque;

use cache::{CacheConfig, CacheStats, CacheType, RequestCache, StepCache, Stream, Warning};
use candle_core::{Result, Tensor};
use kernels::WeightedTensors;

use crate::dit::BlockList;

/// The step cache of one request: the rules and the tensors that they decide about. It ends with the request.
///
/// A clone shares the tensors; both copies may continue independently.
#[derive(Clone)]
pub struct RequestResiduals {
    pub(crate) rules: RequestCache,
    /// `stored[segment][branch]`
    stored: Vec<Vec<Stored>>,
}

/// The tensors that one branch keeps of one segment.
#[derive(Clone, Default)]
struct Stored {
    /// Residual of the first blocks in the last computed step, `[tokens, dim]`.
    first_blocks: Option<Tensor>,
    /// Residuals of the middle blocks in the last computed steps, for each stream, newest first.
    hidden: VecDeque<Tensor>,
    encoder: VecDeque<Tensor>,
}

impl RequestResiduals {
    /// Creates the empty cache of a request with `branches` passes per step, and warnings for the client. There is no
    /// cache if the configuration never reuses anything.
    pub fn new(
        config: &CacheConfig,
        num_inference_steps: usize,
        segments: &[BlockList],
        branches: usize,
    ) -> (Option<Self>, Vec<Warning>) {
        if config.never_reuses() {
            return (None, Vec::new());
        }
        let named: Vec<_> = segments.iter().map(BlockList::named).collect();
        let (rules, warnings) = RequestCache::new(config, num_inference_steps, &named, branches);
        let stored = segments.iter().map(|_| (0..branches).map(|_| Stored::default()).collect()).collect();
        (Some(RequestResiduals { rules, stored }), warnings)
    }

    /// Sets the noise levels of the request's evaluations.
    pub(crate) fn at_levels(self, levels: &[f64]) -> Self {
        RequestResiduals { rules: self.rules.at_levels(levels), ..self }
    }

    /// Returns the configuration of the request's cache.
    pub fn config(&self) -> &CacheConfig {
        self.rules.config()
    }

    /// Returns what was computed and reused so far.
    pub fn stats(&self) -> &CacheStats {
        self.rules.stats()
    }

    /// Returns the residual of this branch's first blocks in the last computed step.
    pub(crate) fn first_blocks(&self, segment: usize, branch: usize) -> Option<&Tensor> {
        self.stored[segment][branch].first_blocks.as_ref()
    }

    /// Stores the residual of the first blocks in a computed step.
    pub(crate) fn store_first_blocks(&mut self, segment: usize, branch: usize, residual: Tensor) {
        self.stored[segment][branch].first_blocks = Some(residual);
    }

    /// Returns the value to store of middle blocks that turned `input` into `output`, as a weighted sum.
    pub(crate) fn remembered<'t>(&self, stream: Stream, input: &'t Tensor, output: &'t Tensor) -> WeightedTensors<'t> {
        match self.config().cache_type(stream) {
            CacheType::Residual => vec![(1.0, output), (-1.0, input)],
            CacheType::HiddenStates => vec![(1.0, output)],
        }
    }

    /// Stores that value of a computed step, and drops values that no later forecast needs.
    pub(crate) fn store(&mut self, at: At, stream: Stream, value: Tensor) -> Result<()> {
        let keep = self.step_cache(at).keep(stream);
        let history = self.history_mut(at, stream);
        history.push_front(value);
        history.truncate(keep);
        Ok(())
    }

    /// Forecasts the stream after the skipped middle blocks, as a weighted sum of `x` and stored residuals. If the
    /// configuration stores hidden states, the sum is over the stored outputs alone.
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

/// The place of one row in its request's cache.
#[derive(Clone, Copy)]
pub(crate) struct At {
    pub(crate) segment: usize,
    pub(crate) branch: usize,
}
