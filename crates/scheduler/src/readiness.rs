//! What the scheduler shows of itself: whether it takes jobs, and how many it has.

use std::sync::Arc;

use diffusion::ModelCard;

/// Whether jobs are taken.
#[derive(Clone, Debug, PartialEq)]
pub enum Readiness {
    /// No worker has its model yet, or the last one that had is loading it again.
    Loading,
    /// At least one worker is at work with the model of this card.
    Ready(Arc<ModelCard>),
    /// No worker is left; the reason is the last one's.
    Failed(String),
    /// What was taken is being finished, nothing more is taken.
    Draining,
}

/// How many jobs the scheduler has in hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Jobs in line that no worker has taken up.
    pub waiting: usize,
    /// Jobs that a worker has taken up.
    pub running: usize,
}
