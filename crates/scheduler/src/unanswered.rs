//! An accepted job without an answer yet: the material of its answer.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use diffusion::{ImageRequest, StepReport};
use tokio::sync::mpsc;
use tracing::Span;

use crate::event::Submission;
use crate::job::{Generated, Timings, Update};
use crate::order::{Decoded, Prepared};

/// An accepted job that has not been answered yet.
pub(crate) struct Unanswered {
    /// Kept until the answer, because the job may have to run again.
    pub(crate) request: Arc<ImageRequest>,
    pub(crate) updates: mpsc::UnboundedSender<Update>,
    pub(crate) position: Arc<AtomicUsize>,
    /// Whether its answer includes the latents.
    pub(crate) wants_latents: bool,
    /// Its queue position at submission; kept until the answer.
    first_position: usize,
    pub(crate) arrived: Duration,
    pub(crate) timings: Timings,
    pub(crate) prepared: Prepared,
    pub(crate) steps: Vec<StepReport>,
    pub(crate) previews_drawn: usize,
    /// The parent span of its stages.
    pub(crate) span: Span,
    /// The span of its time in the queue.
    pub(crate) queue_span: Span,
}

impl Unanswered {
    pub(crate) fn new(submission: Submission, wants_latents: bool, first_position: usize, arrived: Duration) -> Self {
        let Submission { request, updates, position, span, .. } = submission;
        Unanswered {
            request: request.into(),
            updates,
            position,
            wants_latents,
            first_position,
            arrived,
            timings: Timings::default(),
            prepared: Prepared::default(),
            steps: Vec::new(),
            previews_drawn: 0,
            queue_span: queue_span(&span),
            span,
        }
    }

    /// Resets the job's records, because it is queued again.
    pub(crate) fn begin_again(&mut self) {
        (self.steps, self.prepared, self.timings) = (Vec::new(), Prepared::default(), Timings::default());
        self.queue_span = queue_span(&self.span);
    }

    /// Builds its answer; `decode` is the duration of the decoding.
    pub(crate) fn generated(&mut self, decoded: Decoded, decode: Duration) -> Generated {
        let Decoded { image, latents } = decoded;
        let Prepared { prompt_tokens, warnings, .. } = std::mem::take(&mut self.prepared);
        let timings = Timings { decode, ..self.timings };
        let steps = std::mem::take(&mut self.steps);
        Generated { image, prompt_tokens, warnings, timings, position: self.first_position, steps, latents }
    }
}

fn queue_span(of_job: &Span) -> Span {
    tracing::info_span!(parent: of_job, "queue")
}
