//! A job that was taken and not answered: what its answer is made of.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use diffusion::{ImageRequest, StepReport};
use tokio::sync::mpsc;
use tracing::Span;

use crate::event::Submission;
use crate::job::{Generated, Timings, Update};
use crate::order::{Decoded, Prepared};

/// See the module.
pub(crate) struct Unanswered {
    /// Kept to the end: the job may have to run again.
    pub(crate) request: Arc<ImageRequest>,
    pub(crate) updates: mpsc::UnboundedSender<Update>,
    pub(crate) position: Arc<AtomicUsize>,
    /// Whether its answer has the latents.
    pub(crate) wants_latents: bool,
    /// Its position when it was submitted; kept up to the answer.
    first_position: usize,
    pub(crate) arrived: Duration,
    pub(crate) timings: Timings,
    pub(crate) prepared: Prepared,
    pub(crate) steps: Vec<StepReport>,
    pub(crate) previews_drawn: usize,
    /// What the spans of its stages belong to.
    pub(crate) span: Span,
    /// Its time in line.
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

    /// Nothing of it is done any more: it is in line again.
    pub(crate) fn begin_again(&mut self) {
        (self.steps, self.prepared, self.timings) = (Vec::new(), Prepared::default(), Timings::default());
        self.queue_span = queue_span(&self.span);
    }

    /// Its answer, when its decoding took so long.
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
