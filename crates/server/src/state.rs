//! The state shared by all handlers.

use std::sync::Arc;

use diffusion::ModelCard;
use scheduler::{Queue, Readiness, SubmitError};

use crate::access::Access;
use crate::api::bounds::Purpose;
use crate::audits::Audits;
use crate::clock::Clock;
use crate::config::ServerConfig;
use crate::files::Files;
use crate::idempotency::Replays;
use crate::jobs::{Bounds, Jobs};
use crate::live::RunServices;
use crate::metrics::Metrics;
use crate::uploads::{MemoryBounds, MemoryLedger};

/// The state shared by all handlers; a cheap clone.
#[derive(Clone, Debug)]
pub struct AppState {
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) metrics: Metrics,
    pub(crate) access: Arc<Access>,
    pub(crate) audits: Arc<Audits>,
    pub(crate) clock: Clock,
    pub(crate) files: Arc<Files>,
    pub(crate) jobs: Arc<Jobs>,
    pub(crate) replays: Arc<Replays>,
    /// Memory held by request bodies that are being read.
    pub(crate) uploads: MemoryLedger,
    /// Memory held by decoded pictures.
    pub(crate) pictures: MemoryLedger,
    /// Time at which the server started, in seconds since 1970: a model's `created`.
    pub(crate) started: u64,
}

impl AppState {
    /// The state of a server that submits its jobs to `queue`, whose observer must be that of `metrics`.
    pub fn new(queue: impl Queue + 'static, config: ServerConfig, metrics: Metrics) -> Self {
        let queue: Arc<dyn Queue> = Arc::new(queue);
        let access = Arc::new(Access::new(&config));
        let audits = Arc::new(Audits::new(config.cache_audit, config.plans.clone(), queue.clone(), metrics.clone()));
        let clock = Clock::default();
        let uploads = MemoryBounds { all: config.uploads.upload_memory, client: config.uploads.client_upload_memory };
        let pictures =
            MemoryBounds { all: config.uploads.picture_memory, client: config.uploads.client_picture_memory };
        let files = Arc::new(Files::new(config.file_memory));
        let jobs = Arc::new(Jobs::new(Bounds::of(config.job_memory)));
        let replays = Arc::new(Replays::new(Bounds::of(config.replay_memory)));
        AppState {
            queue,
            config: Arc::new(config),
            metrics,
            access,
            audits,
            clock,
            files,
            jobs,
            replays,
            uploads: MemoryLedger::new(Purpose::Uploads, uploads),
            pictures: MemoryLedger::new(Purpose::Pictures, pictures),
            started: clock.now(),
        }
    }

    /// The services that a run uses.
    pub(crate) fn run_services(&self) -> RunServices {
        let (metrics, files, audits) = (self.metrics.clone(), self.files.clone(), self.audits.clone());
        RunServices { clock: self.clock, metrics, files, audits }
    }

    /// The card of the loaded model, or the error that a submission would return.
    pub(crate) fn card(&self) -> Result<Arc<ModelCard>, SubmitError> {
        let readiness = self.queue.readiness();
        let has_ended = readiness.has_changed().is_err();
        match &*readiness.borrow() {
            // The last value is out of date.
            Readiness::Ready(_) | Readiness::Loading if has_ended => {
                Err(SubmitError::Failed("the scheduler has ended".into()))
            }
            Readiness::Ready(card) => Ok(card.clone()),
            Readiness::Loading => Err(SubmitError::Loading),
            Readiness::Draining => Err(SubmitError::ShuttingDown),
            Readiness::Failed(reason) => Err(SubmitError::Failed(reason.clone())),
        }
    }
}
