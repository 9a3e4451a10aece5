//! What every handler can reach.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use diffusion::ModelCard;
use scheduler::{Readiness, Scheduler, SubmitError};

use crate::access::Access;
use crate::config::ServerConfig;
use crate::metrics::Metrics;

/// What every handler can reach; a cheap clone.
#[derive(Clone, Debug)]
pub struct AppState {
    pub(crate) scheduler: Scheduler,
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) metrics: Metrics,
    pub(crate) access: Arc<Access>,
    pub(crate) clock: Clock,
    pub(crate) files: Arc<Files>,
    pub(crate) jobs: Arc<Jobs>,
    pub(crate) replays: Arc<Replays>,
    /// When the server started, in seconds since 1970: a model's `created`.
    pub(crate) started: u64,
}

impl AppState {
    /// The state of a server that hands its jobs to `scheduler`, whose observer is that of `metrics`.
    pub fn new(scheduler: Scheduler, config: ServerConfig, metrics: Metrics) -> Self {
        let access = Arc::new(Access::new(&config));
        AppState { scheduler, config: Arc::new(config), metrics, access, started: unix_seconds() }
    }

    /// The loaded model's card, or why there is none: the reason that a submission would get.
    pub(crate) fn card(&self) -> Result<Arc<ModelCard>, SubmitError> {
        match &*self.scheduler.readiness().borrow() {
            Readiness::Ready(card) => Ok(card.clone()),
            Readiness::Loading => Err(SubmitError::Loading),
            Readiness::Draining => Err(SubmitError::ShuttingDown),
            Readiness::Failed(reason) => Err(SubmitError::Failed(reason.clone())),
        }
    }
}

/// Now, in seconds since 1970.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}
