//! A run that is going on by itself, and those who watch it: the one source of every form of answer.
//!
//! A task drives it, and keeps what whoever comes later must know. It is bounded: of the previews that a
//! slow reader has not read only the newest are kept, and at most so many steps and pictures as were
//! asked for. When the last watcher leaves, the run is dropped, and its jobs with it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use scheduler::{JobError, Place};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle, spawn_blocking};
use tracing::Instrument;

use crate::api::answer::picture::{Partial, Picture, file};
use crate::api::answer::step::Step;
use crate::api::answer::terms::Terms;
use crate::api::error::ApiError;
use crate::audits::{Audit, Audits};
use crate::clock::Clock;
use crate::files::Files;
use crate::metrics::Metrics;
use crate::run::{Run, RunEvent};

/// Most previews of a picture that are kept for readers: OpenAI's most, so that whoever counts them out
/// gets them all.
const KEPT_PREVIEWS: usize = 3;

/// A run, from outside; a cheap clone that does not keep it going.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    pub(crate) terms: Arc<Terms>,
    places: Arc<[Place]>,
    told: Arc<watch::Sender<Told>>,
    driver: AbortHandle,
}

/// What a run needs of its server.
#[derive(Clone, Debug)]
pub(crate) struct RunServices {
    pub(crate) clock: Clock,
    pub(crate) metrics: Metrics,
    /// Where its pictures are kept that the answer names by URL.
    pub(crate) files: Arc<Files>,
    pub(crate) audits: Arc<Audits>,
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

/// What has become of a run so far.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// In the order of their numbers, which have gaps where old previews made way.
    entries: BTreeMap<u64, Entry>,
    next: u64,
    is_started: bool,
    steps_taken: usize,
    ended: Option<Ended>,
}

#[derive(Clone, Debug)]
struct Ended {
    /// In seconds since 1970.
    at: u64,
    outcome: Result<(), Failure>,
}

/// Something that readers are told; a cheap clone.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    Step(Arc<Step>),
    /// The steps of this picture that were told are void, and told anew.
    Restarted {
        image_index: usize,
        created_at: u64,
    },
    Partial(Arc<Partial>),
    Completed(Arc<Picture>),
}

/// Why a run has no pictures, or not all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Job(JobError),
    Internal(String),
    /// Someone gave it up.
    Cancelled,
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Job(err) => err.into(),
            Failure::Internal(message) => ApiError::Internal(message),
            Failure::Cancelled => ApiError::Cancelled,
        }
    }
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

impl Told {
    /// The first entry from `cursor` on.
    fn at(&self, cursor: u64) -> Option<(u64, &Entry)> {
        self.entries.range(cursor..).next().map(|(number, entry)| (*number, entry))
    }

    fn push(&mut self, entry: Entry) {
        if let Entry::Partial(partial) = &entry {
            let is_of_it = |entry: &Entry| matches!(entry, Entry::Partial(p) if p.image_index == partial.image_index);
            let kept = self.entries.iter().filter(|(_, entry)| is_of_it(entry)).map(|(number, _)| *number);
            let kept: Vec<u64> = kept.collect();
            if kept.len() >= KEPT_PREVIEWS {
                self.entries.remove(&kept[0]);
            }
        }
        self.entries.insert(self.next, entry);
        self.next += 1;
    }

    /// Lets the previews of a picture go.
    fn forget_previews(&mut self, of: usize) {
        self.entries.retain(|_, entry| !matches!(entry, Entry::Partial(partial) if partial.image_index == of));
    }

    /// Lets the steps of a picture go: whoever comes later is told those that count.
    fn forget_steps(&mut self, of: usize) {
        self.entries.retain(|_, entry| match entry {
            Entry::Step(step) => step.image_index != of,
            Entry::Restarted { image_index, .. } => *image_index != of,
            _ => true,
        });
    }

    fn pictures(&self) -> Vec<Arc<Picture>> {
        let completed = self.entries.values().filter_map(|entry| match entry {
            Entry::Completed(picture) => Some(picture.clone()),
            _ => None,
        });
        let mut pictures: Vec<_> = completed.collect();
        pictures.sort_by_key(|picture| picture.image_index);
        pictures
    }

    fn bytes(&self) -> usize {
        let bytes = |entry: &Entry| match entry {
            Entry::Step(step) => size_of::<Step>() + size_of_val(&*step.report.runs),
            Entry::Restarted { .. } => size_of::<Entry>(),
            Entry::Partial(partial) => partial.file.len(),
            Entry::Completed(picture) => picture.file.len(),
        };
        self.entries.values().map(bytes).sum()
    }
}

/// Sees to it that a run ends for its watchers, however its driver does.
struct Ending {
    told: Arc<watch::Sender<Told>>,
    clock: Clock,
}

impl Ending {
    /// Drives the run until it is over or nobody watches any more.
    async fn watched(self, mut driver: Driver) {
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

/// Turns what happens into what is told.
struct Driver {
    /// Until it is over.
    run: Option<Run>,
    terms: Arc<Terms>,
    /// Of the pictures that are to be audited, until they are there.
    audits: Vec<Option<Audit>>,
    services: RunServices,
    /// What happened and was not told yet: pictures wait here for those before them to be written.
    unwritten: VecDeque<RunEvent>,
}

/// The one file that is being written.
type Writing = JoinHandle<Result<Entry, String>>;

impl Driver {
    async fn drive(&mut self, told: &watch::Sender<Told>) -> Result<(), Failure> {
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
                        // A job is kept for long. Whoever comes once the picture is there needs no previews of it.
                        if let (Entry::Completed(picture), true) = (&entry, self.terms.run_async) {
                            told.forget_previews(picture.image_index);
                        }
                        told.push(entry);
                    });
                }
            }
        }
    }

    /// Takes note of what happened. Previews that come faster than they can be written make way.
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

    /// Tells what is no picture, and begins to write what is one.
    fn tell(&self, event: RunEvent, told: &watch::Sender<Told>) -> Option<Writing> {
        let (terms, now) = (self.terms.clone(), self.services.clock.now());
        let write: Box<dyn FnOnce() -> Result<Entry, String> + Send> = match event {
            RunEvent::Started => {
                told.send_modify(|told| told.is_started = true);
                return None;
            }
            RunEvent::Stepped { image_index, report } => {
                told.send_modify(|told| {
                    told.steps_taken += 1;
                    if terms.progress {
                        told.push(Entry::Step(Arc::new(Step { image_index, created_at: now, report })));
                    }
                });
                return None;
            }
            RunEvent::Restarted { image_index, steps_taken } => {
                told.send_modify(|told| {
                    told.steps_taken -= steps_taken;
                    told.forget_steps(image_index);
                    if terms.progress {
                        told.push(Entry::Restarted { image_index, created_at: now });
                    }
                });
                return None;
            }
            RunEvent::Preview { image_index, partial_image_index, step_index, image } => Box::new(move || {
                let file = file(&terms, &image, None)?;
                let partial = Partial { image_index, partial_image_index, step_index, file, created_at: now };
                Ok(Entry::Partial(Arc::new(partial)))
            }),
            RunEvent::Finished { image_index, generated } => {
                Box::new(move || Ok(Entry::Completed(Arc::new(Picture::new(&terms, image_index, *generated, now)?))))
            }
        };
        let span = tracing::info_span!("encode_image", format = self.terms.output.format.name());
        Some(spawn_blocking(move || span.in_scope(write)))
    }

    /// What was written, once it is measured and where its URL says.
    fn kept(&self, entry: Entry) -> Entry {
        let Entry::Completed(mut picture) = entry else { return entry };
        self.services.metrics.image_encoded(picture.encode);
        if let Some(picture) = Arc::get_mut(&mut picture).filter(|_| self.terms.answers_with_urls()) {
            let path = self.services.files.put(picture.file.clone(), self.terms.output.format, picture.created_at);
            picture.url = Some(self.terms.public_url.clone() + &path);
        }
        Entry::Completed(picture)
    }
}

/// Waits for ever once the run is over.
async fn next(run: &mut Option<Run>) -> Option<Result<RunEvent, JobError>> {
    match run {
        Some(run) => run.next().await,
        None => std::future::pending().await,
    }
}

/// Waits for ever while nothing is written.
async fn written(writing: &mut Option<Writing>) -> Result<Result<Entry, String>, tokio::task::JoinError> {
    match writing {
        Some(writing) => writing.await,
        None => std::future::pending().await,
    }
}
