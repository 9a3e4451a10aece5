//! Observation of scheduler events, for metrics.

use std::sync::Arc;
use std::time::Duration;

use diffusion::{EncodingsUse, StepReport};

use crate::job::Outcome;
use crate::refusal::SubmitError;

/// An event in the scheduler.
#[derive(Clone, Debug)]
pub enum Observation<'a> {
    /// Jobs were queued.
    Submitted {
        /// Number of jobs, at least 1.
        jobs: usize,
    },
    /// A submission was refused.
    Refused(&'a SubmitError),
    /// A worker started a job.
    Started {
        /// Time in the queue.
        queued: Duration,
    },
    /// A job's prompts and pictures were encoded.
    Encoded {
        /// Index of the worker, from 0.
        worker: usize,
        /// Duration.
        took: Duration,
        /// Use of the worker's encoding cache.
        encodings: EncodingsUse,
    },
    /// A worker took a denoising step.
    Stepped {
        /// Jobs in the step, including those cancelled during it.
        batch: usize,
        /// Image tokens of all transformer passes of the step.
        tokens: usize,
        /// Duration of the step.
        took: Duration,
        /// One report per job of the step.
        reports: &'a [StepReport],
    },
    /// A preview was drawn.
    Previewed {
        /// Duration.
        took: Duration,
    },
    /// A picture was decoded.
    Decoded {
        /// Duration.
        took: Duration,
    },
    /// A job got its answer.
    Answered {
        /// The answer.
        outcome: &'a Outcome,
        /// Time since its submission.
        total: Duration,
    },
    /// The client gave a job up.
    Cancelled,
    /// A worker is back from a turn that was interrupted because no client waited for it.
    Interrupted {
        /// Time from the interrupt to the worker's return.
        after: Duration,
    },
    /// A worker is back from a turn of idle work that was interrupted because jobs wait or the work was given up.
    Preempted {
        /// Time from the interrupt to the worker's return.
        after: Duration,
    },
    /// A worker's pipeline panicked, failed its trial or did not load again, or its thread ended.
    Crashed,
    /// A job is queued again because its worker failed or had too little memory for it beside others.
    Restarted,
    /// The jobs in hand, reported after every change.
    Load {
        /// Queued jobs that no worker has started.
        waiting: usize,
        /// Jobs that a worker has started.
        running: usize,
        /// Workers in a turn for jobs, including one whose jobs are gone and that is not back yet.
        busy_workers: usize,
        /// Predicted time to finish everything in hand.
        predicted_drain: Duration,
    },
}

/// Callback for each observation. It runs on the event loop and delays everything else: it may count and measure, but
/// must not block.
pub type Observer = Arc<dyn Fn(&Observation<'_>) + Send + Sync>;
