//! Showing what happens, as it happens, for metrics.

use std::sync::Arc;
use std::time::Duration;

use diffusion::{EncodingsUse, StepReport};

use crate::job::Outcome;
use crate::refusal::SubmitError;

/// Something that happened to the scheduler.
#[derive(Clone, Debug)]
pub enum Observation<'a> {
    /// So many jobs were put in line.
    Submitted {
        /// At least 1.
        jobs: usize,
    },
    /// A submission was not taken.
    Refused(&'a SubmitError),
    /// A worker took a job up.
    Started {
        /// How long it was in line.
        queued: Duration,
    },
    /// A job's prompts and pictures were encoded.
    Encoded {
        /// Counts the workers from 0.
        worker: usize,
        /// How long that took.
        took: Duration,
        /// What the worker's memory of earlier encodings did.
        encodings: EncodingsUse,
    },
    /// A worker took a denoising step.
    Stepped {
        /// Jobs in the step, those included that were cancelled during it.
        batch: usize,
        /// Image tokens of all transformer passes of the step.
        tokens: usize,
        /// How long it took.
        took: Duration,
        /// One a job of the step.
        reports: &'a [StepReport],
    },
    /// A preview was drawn.
    Previewed {
        /// How long that took.
        took: Duration,
    },
    /// A picture was decoded.
    Decoded {
        /// How long that took.
        took: Duration,
    },
    /// A job got its answer.
    Answered {
        /// The answer.
        outcome: &'a Outcome,
        /// How long after its submission.
        total: Duration,
    },
    /// A job was given up by whoever sent it.
    Cancelled,
    /// A worker is back from a turn that was interrupted, as nobody waited for it any more.
    Interrupted {
        /// How long it went on.
        after: Duration,
    },
    /// A worker is back from a turn of idle work that was interrupted, as jobs wait or the work was given up.
    Preempted {
        /// How long it went on.
        after: Duration,
    },
    /// A worker's pipeline panicked, failed its trial or did not load again, or its thread ended.
    Crashed,
    /// A job whose worker failed, or that had too little memory beside others, is in line again.
    Restarted,
    /// What is in hand; shown after every change.
    Load {
        /// Jobs in line that no worker has taken up.
        waiting: usize,
        /// Jobs that a worker has taken up.
        running: usize,
        /// Workers that are at a turn for jobs, one included whose jobs are gone and that is not back yet.
        busy_workers: usize,
        /// How long everything in hand will take.
        predicted_drain: Duration,
    },
}

/// Is shown each observation. It is called on the event loop and holds everything up while it
/// runs: it may count and measure, and must not block.
pub type Observer = Arc<dyn Fn(&Observation<'_>) + Send + Sync>;
