//! A running request and its watchers: the single source of every form of answer.
//!
//! A task drives the run and keeps what later readers need. Its memory is bounded: it keeps only the newest previews
//! that a slow reader has not read, and no more steps and pictures than the request asked for. When the last watcher
//! leaves, the run is dropped together with its jobs.

mod driver;
mod told;

use std::collections::VecDeque;
use std::sync::Arc;

use scheduler::Place;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tracing::Instrument;

use crate::api::answer::picture::FinishedPicture;
use crate::api::answer::terms::AnswerTerms;
use crate::audits::Audit;
use crate::run::Run;

pub(crate) use driver::RunServices;
use driver::{Driver, Ending};
use told::{Ended, RunHistory};
pub(crate) use told::{Failure, RunUpdate};

/// Handle to a run; a cheap clone that does not keep the run going.
#[derive(Clone, Debug)]
pub(crate) struct OngoingRun {
    pub(crate) terms: Arc<AnswerTerms>,
    places: Arc<[Place]>,
    told: Arc<watch::Sender<RunHistory>>,
    driver: AbortHandle,
}

/// Subscription to a run. A run goes on as long as it has a watcher.
#[derive(Debug)]
pub(crate) struct Watcher {
    pub(crate) live: OngoingRun,
    told: watch::Receiver<RunHistory>,
    /// Number of the first unread entry.
    cursor: u64,
    is_done: bool,
}

/// Progress of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// No picture has started; `position` jobs are ahead of the first one.
    Queued { position: usize },
    /// At least one picture has started; `steps_taken` counts the steps of all pictures.
    Running { steps_taken: usize },
    /// The run ended at this time, in seconds since 1970.
    Ended { at: u64, outcome: Result<(), Failure> },
}

impl OngoingRun {
    /// Starts driving `run` and returns its first watcher; `audits` holds one entry a picture.
    pub(crate) fn start(run: Run, terms: AnswerTerms, audits: Vec<Option<Audit>>, services: RunServices) -> Watcher {
        let (told, receiver) = watch::channel(RunHistory::default());
        let (told, terms, places) = (Arc::new(told), Arc::new(terms), run.places().into());
        let ending = Ending { told: told.clone(), clock: services.clock };
        let unwritten = VecDeque::new();
        let driver = Driver { run: Some(run), terms: terms.clone(), audits, services, unwritten };
        let driving = async move { ending.watched(driver).await }.in_current_span();
        let live = OngoingRun { terms, places, told, driver: tokio::spawn(driving).abort_handle() };
        Watcher { live, told: receiver, cursor: 0, is_done: false }
    }

    /// Adds a watcher, which reads every entry that was kept.
    pub(crate) fn watch(&self) -> Watcher {
        Watcher { live: self.clone(), told: self.told.subscribe(), cursor: 0, is_done: false }
    }

    /// Cancels the run, however many watchers it has. A run that has ended stays as it is.
    pub(crate) fn cancel(&self) {
        self.driver.abort();
    }

    pub(crate) fn stage(&self) -> Stage {
        let told = self.told.borrow();
        match &told.ended {
            Some(Ended { at, outcome }) => Stage::Ended { at: *at, outcome: outcome.clone() },
            None if told.is_started => Stage::Running { steps_taken: told.steps_taken },
            None => Stage::Queued { position: self.position().unwrap_or(0) },
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.told.borrow().ended.is_some()
    }

    /// Jobs queued ahead of the run's first picture; `None` once none of its pictures is queued.
    pub(crate) fn position(&self) -> Option<usize> {
        self.places.iter().filter_map(Place::position).min()
    }

    /// The finished pictures, in order.
    pub(crate) fn pictures(&self) -> Vec<Arc<FinishedPicture>> {
        self.told.borrow().pictures()
    }

    /// URLs of the finished pictures, if the answer refers to them by URL.
    pub(crate) fn urls(&self) -> Vec<String> {
        let told = self.told.borrow();
        let urls = told.entries.values().filter_map(|entry| match entry {
            RunUpdate::Completed(picture) => picture.url.clone(),
            _ => None,
        });
        urls.collect()
    }

    /// Drops the pictures and previews of a run that has ended. Later readers see only how it ended.
    pub(crate) fn forget(&self) {
        self.told.send_modify(|told| told.entries.clear());
    }

    /// Upper estimate of the bytes kept for readers. Pictures still to come count at their uncompressed size, which a
    /// file rarely exceeds.
    pub(crate) fn most_bytes(&self) -> usize {
        let told = self.told.borrow();
        let coming = match told.ended {
            Some(_) => 0,
            None => self.terms.seeds.len().saturating_sub(told.pictures().len()),
        };
        told.bytes() + coming * self.terms.size.pixels() * 3
    }
}

impl Watcher {
    /// Waits for all pictures.
    ///
    /// # Errors
    /// The run ended before every picture was finished.
    pub(crate) async fn finished(mut self) -> Result<Vec<Arc<FinishedPicture>>, Failure> {
        let told = self.told.wait_for(|told| told.ended.is_some()).await;
        let told = told.expect("the sender is in `live`. This is a bug.");
        let ended = told.ended.as_ref().expect("it was waited for. This is a bug.");
        ended.outcome.clone().map(|()| told.pictures())
    }

    /// Waits for the next unread entry. After the last entry it returns the run's failure, if any, and then `None`.
    pub(crate) async fn next(&mut self) -> Option<Result<RunUpdate, Failure>> {
        if self.is_done {
            return None;
        }
        let cursor = self.cursor;
        let told = self.told.wait_for(|told| told.at(cursor).is_some() || told.ended.is_some()).await;
        let told = told.expect("the sender is in `live`. This is a bug.");
        if let Some((number, entry)) = told.at(cursor) {
            self.cursor = number + 1;
            return Some(Ok(entry.clone()));
        }
        self.is_done = true;
        told.ended.as_ref()?.outcome.clone().err().map(Err)
    }

    /// Stops reading.
    pub(crate) fn close(&mut self) {
        self.is_done = true;
    }
}
