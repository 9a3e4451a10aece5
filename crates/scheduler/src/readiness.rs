//! The public state of the scheduler: whether it accepts jobs, and how many it has.

use std::sync::Arc;

use diffusion::ModelCard;

/// Whether jobs are accepted.
#[derive(Clone, Debug, PartialEq)]
pub enum Readiness {
    /// No worker has its model yet, or the last one that had is loading it again.
    Loading,
    /// At least one worker has loaded the model of this card.
    Ready(Arc<ModelCard>),
    /// No worker is left; the reason is that of the last one.
    Failed(String),
    /// Accepted jobs are being finished; no more are accepted.
    Draining,
}

/// The number of jobs in hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Queued jobs that no worker has started.
    pub waiting: usize,
    /// Jobs that a worker has started.
    pub running: usize,
}
