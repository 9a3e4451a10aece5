//! A run that is going on by itself, and those who watch it: the one source of every form of answer.
//!
//! A task drives it, and keeps what whoever comes later must know. It is bounded: of the previews that a
//! slow reader has not read only the newest are kept, and at most so many steps and pictures as were
//! asked for. When the last watcher leaves, the run is dropped, and its jobs with it.

mod driver;
mod told;

use std::collections::VecDeque;
use std::sync::Arc;

use scheduler::Place;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tracing::Instrument;

use crate::api::answer::picture::Picture;
use crate::api::answer::terms::Terms;
use crate::audits::Audit;
use crate::run::Run;

pub(crate) use driver::RunServices;
use driver::{Driver, Ending};
use told::{Ended, Told};
pub(crate) use told::{Entry, Failure};

/// A run, from outside; a cheap clone that does not keep it going.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    pub(crate) terms: Arc<Terms>,
    places: Arc<[Place]>,
    told: Arc<watch::Sender<Told>>,
    driver: AbortHandle,
}

/// Someone who waits for a run, and so keeps it going.
#[derive(Debug)]
pub(crate) struct Watcher {
    pub(crate) live: Live,
    told: watch::Receiver<Told>,
    /// The first entry that was not read.
    cursor: u64,
    is_done: bool,
}

/// How far a run is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// None of its pictures was begun; so many jobs are before the first.
    Queued { position: usize },
    /// So many of its steps are done, all pictures together.
    Running { steps_taken: usize },
    /// At this time, in seconds since 1970.
    Ended { at: u64, outcome: Result<(), Failure> },
}

impl Live {
    /// Drives `run`, for whoever watches; `audits` are those of its pictures.
    pub(crate) fn start(run: Run, terms: Terms, audits: Vec<Option<Audit>>, services: RunServices) -> Watcher {
        let (told, receiver) = watch::channel(Told::default());
        let (told, terms, places) = (Arc::new(told), Arc::new(terms), run.places().into());
        let ending = Ending { told: told.clone(), clock: services.clock };
        let unwritten = VecDeque::new();
        let driver = Driver { run: Some(run), terms: terms.clone(), audits, services, unwritten };
        let driving = async move { ending.watched(driver).await }.in_current_span();
        let live = Live { terms, places, told, driver: tokio::spawn(driving).abort_handle() };
        Watcher { live, told: receiver, cursor: 0, is_done: false }
    }

    /// One watcher more, who is told everything that was kept.
    pub(crate) fn watch(&self) -> Watcher {
        Watcher { live: self.clone(), told: self.told.subscribe(), cursor: 0, is_done: false }
    }

    /// Gives the run up, whoever watches it. One that has ended stays as it is.
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

    /// Jobs that are before the first of its pictures in line; `None` once none of them is in line.
    pub(crate) fn position(&self) -> Option<usize> {
        self.places.iter().filter_map(Place::position).min()
    }

    /// The finished pictures, in their order.
    pub(crate) fn pictures(&self) -> Vec<Arc<Picture>> {
        self.told.borrow().pictures()
    }

    /// Where the finished pictures can be fetched, if the answer says that.
    pub(crate) fn urls(&self) -> Vec<String> {
        let told = self.told.borrow();
        let urls = told.entries.values().filter_map(|entry| match entry {
            Entry::Completed(picture) => picture.url.clone(),
            _ => None,
        });
        urls.collect()
    }

    /// Lets the pictures and previews go, of a run that has ended. Readers that come later are told its end alone.
    pub(crate) fn forget(&self) {
        self.told.send_modify(|told| told.entries.clear());
    }

    /// Bytes of all files that are kept for readers, and while it goes on of the pictures that are still to come, as
    /// they are without compression: seldom has a file more.
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
    /// All pictures, once they are finished.
    ///
    /// # Errors
    /// There is not one for each.
    pub(crate) async fn finished(mut self) -> Result<Vec<Arc<Picture>>, Failure> {
        let told = self.told.wait_for(|told| told.ended.is_some()).await;
        let told = told.expect("the sender is in `live`. This is a bug.");
        let ended = told.ended.as_ref().expect("it was waited for. This is a bug.");
        ended.outcome.clone().map(|()| told.pictures())
    }

    /// The next entry that was not read, once there is one; last the failure, if there is one.
    pub(crate) async fn next(&mut self) -> Option<Result<Entry, Failure>> {
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

    /// Reads nothing more.
    pub(crate) fn close(&mut self) {
        self.is_done = true;
    }
}
