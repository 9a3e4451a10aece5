//! Labels of the metrics, and their values.

use diffusion::{PipelineError, StepReport};
use prometheus_client::encoding::EncodeLabelSet;
use scheduler::{JobError, SubmitError};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RequestLabels {
    /// A route's template.
    pub(super) endpoint: String,
    /// The first name of the served model.
    pub(super) model: String,
    /// `ok`, an error's code, or `client_left`.
    pub(super) outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct EndpointLabels {
    pub(super) endpoint: String,
    pub(super) model: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct StageLabels {
    pub(super) stage: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct StepLabels {
    /// `computed`, `reused` or `mixed`.
    pub(super) decision: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ReasonLabels {
    pub(super) reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct AimLabels {
    /// The audit group, by its name.
    pub(super) aim: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OutcomeLabels {
    /// `done` or `dropped`.
    pub(super) outcome: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct LookupLabels {
    /// `prompt`, `vision` or `reference`.
    pub(super) kind: &'static str,
    /// `hit` or `miss`.
    pub(super) result: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct WorkerLabels {
    /// Index of the worker, in the order of `--device`.
    pub(super) worker: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct BlockRunLabels {
    /// `computed` or `reused`.
    pub(super) decision: &'static str,
    /// The step cache's reason.
    pub(super) reason: &'static str,
    pub(super) branch: &'static str,
    pub(super) segment: &'static str,
}

/// `computed` or `reused`.
pub(super) fn decision(reused: bool) -> &'static str {
    if reused { "reused" } else { "computed" }
}

/// The common decision of all runs of a step, or `mixed`.
pub(super) fn step_decision(reports: &[StepReport]) -> &'static str {
    let mut runs = reports.iter().flat_map(|report| &report.runs).map(|run| run.reused);
    let first = runs.next().unwrap_or(false);
    if runs.all(|reused| reused == first) { decision(first) } else { "mixed" }
}

/// Why a submission was refused: the code that its client reads.
pub(super) fn refusal(err: &SubmitError) -> &'static str {
    match err {
        SubmitError::Loading => "model_loading",
        SubmitError::QueueFull { .. } => "queue_full",
        SubmitError::TooLate { .. } | SubmitError::NeverInTime { .. } => "deadline_too_short",
        SubmitError::TooLarge { .. } => "request_too_large",
        SubmitError::ShuttingDown => "shutting_down",
        SubmitError::Failed(_) => "model_failed",
    }
}

/// Why an admitted job has no picture.
pub(super) fn failure(err: &JobError) -> &'static str {
    match err {
        JobError::Pipeline(PipelineError::Invalid(_)) => "invalid_value",
        JobError::Pipeline(PipelineError::OutOfMemory) => "out_of_memory",
        JobError::Pipeline(PipelineError::Model(_)) => "model_error",
        JobError::Pipeline(PipelineError::DeviceLost(_)) => "device_lost",
        JobError::Pipeline(PipelineError::NotFinite { .. }) => "not_finite",
        JobError::Pipeline(PipelineError::Interrupted) => "interrupted",
        JobError::Crashed => "worker_crashed",
        JobError::CrashesModel(_) => "crashes_model",
        JobError::TooLate => "deadline_exceeded",
        JobError::GaveWay => "gave_way",
        JobError::ShuttingDown => "shutting_down",
    }
}
