//! What stands in for the middle blocks on a reused step: a weighted sum of stored residuals.
//!
//! A [`Forecast`] follows which steps were computed and gives the weights. The residuals lie with
//! the caller, newest first; one weight a residual, in the same order. Plain reuse is the weight 1
//! on the newest; TaylorSeer's derivatives are differences of stored residuals, so its polynomial
//! is a weighted sum of them too. Whatever else forecasts linearly becomes one more variant.

use crate::TaylorSeer;

/// The two streams of tokens that the blocks of a dual-stream DiT advance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// `hidden_states`: the image tokens, or image and text where one stream carries both.
    Hidden,
    /// `encoder_hidden_states`: the text tokens of dual-stream blocks.
    Encoder,
}

#[derive(Clone, Debug)]
pub(crate) enum Forecast {
    /// The newest residual as it is.
    Reuse,
    TaylorSeer(TaylorSeer),
}

impl Forecast {
    /// The step at this position begins.
    pub(crate) fn tick(&mut self, position: f64) {
        match self {
            Forecast::Reuse => {}
            Forecast::TaylorSeer(taylor) => taylor.tick(position),
        }
    }

    /// The residual of this step is stored.
    pub(crate) fn store(&mut self) {
        match self {
            Forecast::Reuse => {}
            Forecast::TaylorSeer(taylor) => taylor.store(),
        }
    }

    /// What was stored has another shape than what comes.
    pub(crate) fn restart(&mut self) {
        match self {
            Forecast::Reuse => {}
            Forecast::TaylorSeer(taylor) => taylor.restart(),
        }
    }

    /// One weight a stored residual, newest first, for this step.
    pub(crate) fn weights(&self) -> Vec<f64> {
        match self {
            Forecast::Reuse => vec![1.0],
            Forecast::TaylorSeer(taylor) => taylor.weights(),
        }
    }

    /// How many of the newest residuals are still of use.
    pub(crate) fn keep(&self) -> usize {
        match self {
            Forecast::Reuse => 1,
            Forecast::TaylorSeer(taylor) => taylor.keep(),
        }
    }
}
