//! The task that drives a run: it turns events into entries for the watchers, and pictures into files.

use std::collections::VecDeque;
use std::sync::Arc;

use scheduler::JobError;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};

use super::told::{Ended, Failure, KEPT_PREVIEWS, RunHistory, RunUpdate};
use crate::api::answer::picture::{FinishedPicture, Partial, file};
use crate::api::answer::step::Step;
use crate::api::answer::terms::AnswerTerms;
use crate::audits::{Audit, Audits};
use crate::clock::Clock;
use crate::files::Files;
use crate::metrics::Metrics;
use crate::run::{Run, RunEvent};

/// Parts of the server that a run uses.
#[derive(Clone, Debug)]
pub(crate) struct RunServices {
    pub(crate) clock: Clock,
    pub(crate) metrics: Metrics,
    /// Store of the pictures that the answer refers to by URL.
    pub(crate) files: Arc<Files>,
    pub(crate) audits: Arc<Audits>,
}

/// Ensures that the watchers see an end of the run, however its driver ends.
pub(super) struct Ending {
    pub(super) told: Arc<watch::Sender<RunHistory>>,
    pub(super) clock: Clock,
}

impl Ending {
    /// Drives the run until it ends or its last watcher leaves.
    pub(super) async fn watched(self, mut driver: Driver) {
        let outcome = tokio::select! {
            outcome = driver.drive(&self.told) => outcome,
            () = self.told.closed() => Err(Failure::Cancelled),
        };
        self.end(outcome);
    }

    fn end(&self, outcome: Result<(), Failure>) {
        let at = self.clock.now();
        self.told.send_modify(|told| {
            told.ended.get_or_insert(Ended { at, outcome });
        });
    }
}

impl Drop for Ending {
    /// Also runs when the driver is aborted or panics.
    fn drop(&mut self) {
        self.end(Err(Failure::Cancelled));
    }
}

/// Turns the run's events into entries for the watchers.
pub(super) struct Driver {
    /// `None` once the run is over.
    pub(super) run: Option<Run>,
    pub(super) terms: Arc<AnswerTerms>,
    /// Audits of the chosen pictures; an entry is taken when its picture is finished.
    pub(super) audits: Vec<Option<Audit>>,
    pub(super) services: RunServices,
    /// Events that are not published yet: a picture waits here until the pictures before it are written.
    pub(super) unwritten: VecDeque<RunEvent>,
}

/// The file that is being written; only one is at a time.
type Writing = JoinHandle<Result<RunUpdate, String>>;

impl Driver {
    async fn drive(&mut self, told: &watch::Sender<RunHistory>) -> Result<(), Failure> {
        let mut outcome = Ok(());
        let mut writing = None;
        loop {
            while writing.is_none()
                && let Some(event) = self.unwritten.pop_front()
            {
                writing = self.tell(event, told);
            }
            if writing.is_none() && self.run.is_none() {
                return outcome;
            }
            tokio::select! {
                event = next(&mut self.run) => match event {
                    Some(Ok(event)) => self.take(event),
                    Some(Err(err)) => outcome = Err(Failure::Job(err)),
                    None => self.run = None,
                },
                written = written(&mut writing) => {
                    writing = None;
                    let entry = written.map_err(|err| err.to_string()).and_then(|entry| entry);
                    let entry = self.kept(entry.map_err(Failure::Internal)?);
                    told.send_modify(|told| {
                        // A job is kept for a long time, and readers that come after the picture need none of its
                        // previews.
                        if let (RunUpdate::Completed(picture), true) = (&entry, self.terms.run_async) {
                            told.forget_previews(picture.image_index);
                        }
                        told.push(entry);
                    });
                }
            }
        }
    }

    /// Queues an event. If previews arrive faster than they are written, the oldest is dropped.
    fn take(&mut self, mut event: RunEvent) {
        if let RunEvent::Finished { image_index, generated } = &mut event
            && let Some(audit) = self.audits.get_mut(*image_index).and_then(Option::take)
        {
            audit.begin(generated, &self.services.audits);
        }
        if let RunEvent::Preview { image_index: of, .. } = event {
            let is_of_it =
                |event: &RunEvent| matches!(event, RunEvent::Preview { image_index, .. } if *image_index == of);
            if self.unwritten.iter().filter(|event| is_of_it(event)).count() >= KEPT_PREVIEWS
                && let Some(oldest) = self.unwritten.iter().position(is_of_it)
            {
                self.unwritten.remove(oldest);
            }
        }
        self.unwritten.push_back(event);
    }

    /// Publishes an event without a picture, or starts to write the event's picture.
    fn tell(&self, event: RunEvent, told: &watch::Sender<RunHistory>) -> Option<Writing> {
        let (terms, now) = (self.terms.clone(), self.services.clock.now());
        let write: Box<dyn FnOnce() -> Result<RunUpdate, String> + Send> = match event {
            RunEvent::Started => {
                told.send_modify(|told| told.is_started = true);
                return None;
            }
            RunEvent::Stepped { image_index, report } => {
                told.send_modify(|told| {
                    told.steps_taken += 1;
                    if terms.progress {
                        told.push(RunUpdate::Step(Arc::new(Step { image_index, created_at: now, report })));
                    }
                });
                return None;
            }
            RunEvent::Restarted { image_index, steps_taken } => {
                told.send_modify(|told| {
                    told.steps_taken -= steps_taken;
                    told.forget_steps(image_index);
                    if terms.progress {
                        told.push(RunUpdate::Restarted { image_index, created_at: now });
                    }
                });
                return None;
            }
            RunEvent::Preview { image_index, partial_image_index, step_index, image } => Box::new(move || {
                let file = file(&terms, &image, None)?;
                let partial = Partial { image_index, partial_image_index, step_index, file, created_at: now };
                Ok(RunUpdate::Partial(Arc::new(partial)))
            }),
            RunEvent::Finished { image_index, generated } => Box::new(move || {
                Ok(RunUpdate::Completed(Arc::new(FinishedPicture::new(&terms, image_index, *generated, now)?)))
            }),
        };
        let span = tracing::info_span!("encode_image", format = self.terms.output.format.name());
        Some(spawn_blocking(move || span.in_scope(write)))
    }

    /// Records the metrics of a written picture and stores its file if the answer refers to it by URL.
    fn kept(&self, entry: RunUpdate) -> RunUpdate {
        let RunUpdate::Completed(mut picture) = entry else { return entry };
        self.services.metrics.image_encoded(picture.encode);
        if let Some(picture) = Arc::get_mut(&mut picture).filter(|_| self.terms.answers_with_urls()) {
            let path = self.services.files.put(picture.file.clone(), self.terms.output.format, picture.created_at);
            picture.url = Some(self.terms.public_url.clone() + &path);
        }
        RunUpdate::Completed(picture)
    }
}

/// Pending forever once the run is over.
async fn next(run: &mut Option<Run>) -> Option<Result<RunEvent, JobError>> {
    match run {
        Some(run) => run.next().await,
        None => std::future::pending().await,
    }
}

/// Pending forever while nothing is being written.
async fn written(writing: &mut Option<Writing>) -> Result<Result<RunUpdate, String>, tokio::task::JoinError> {
    match writing {
        Some(writing) => writing.await,
        None => std::future::pending().await,
    }
}
