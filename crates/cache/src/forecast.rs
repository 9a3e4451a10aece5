//! The forecast that replaces the middle blocks on a reused step: a weighted sum of stored residuals.
//!
//! A [`Forecast`] tracks which steps were computed and gives the weights. The caller holds the residuals, newest first,
//! with one weight each in the same order. Plain reuse is the weight 1 on the newest. TaylorSeer's derivatives are
//! differences of stored residuals, so its polynomial is a weighted sum of them too. Any other linear forecast can
//! become one more variant.

use crate::TaylorSeer;

/// The two streams of tokens that the blocks of a dual-stream DiT advance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// `hidden_states`: the image tokens, or image and text tokens in single-stream blocks.
    Hidden,
    /// `encoder_hidden_states`: the text tokens of dual-stream blocks.
    Encoder,
}

#[derive(Clone, Debug)]
pub(crate) enum Forecast {
    /// The newest residual unchanged.
    Reuse,
    TaylorSeer(TaylorSeer),
}

impl Forecast {
    /// Begins the step at this position.
    pub(crate) fn tick(&mut self, position: f64) {
        match self {
            Forecast::Reuse => {}
            Forecast::TaylorSeer(taylor) => taylor.tick(position),
        }
    }

    /// Records that the residual of this step is stored.
    pub(crate) fn store(&mut self) {
        match self {
            Forecast::Reuse => {}
            Forecast::TaylorSeer(taylor) => taylor.store(),
        }
    }

    /// Drops the history, because the shape changes.
    pub(crate) fn restart(&mut self) {
        match self {
            Forecast::Reuse => {}
            Forecast::TaylorSeer(taylor) => taylor.restart(),
        }
    }

    /// The weights of the stored residuals for this step, newest first.
    pub(crate) fn weights(&self) -> Vec<f64> {
        match self {
            Forecast::Reuse => vec![1.0],
            Forecast::TaylorSeer(taylor) => taylor.weights(),
        }
    }

    /// Number of the newest residuals that are still needed.
    pub(crate) fn keep(&self) -> usize {
        match self {
            Forecast::Reuse => 1,
            Forecast::TaylorSeer(taylor) => taylor.keep(),
        }
    }
}
