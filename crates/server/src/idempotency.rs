//! Repeated requests: with the same `Idempotency-Key` they are one request.

use std::fmt::{self, Write};
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::http::HeaderMap;
use diffusion::InvalidRequest;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::api::bounds::MAX_KEY_LEN;
use crate::api::error::ApiError;
use crate::api::request::ImagesRequest;
use crate::jobs::{Bounds, Job};
use crate::live::{OngoingRun, Stage, Watcher};
use crate::uploads::Received;

/// Name of the header with the key.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Time for which an answer can be repeated, in seconds.
const LIFETIME: u64 = 24 * 60 * 60;

/// Requests with keys: those in progress and the answers of successful ones.
#[derive(Debug)]
pub(crate) struct Replays {
    bounds: Bounds,
    /// Oldest first.
    kept: Mutex<Vec<Kept>>,
}

/// Identity of a request: its owner and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) owner: u64,
    pub(crate) key: String,
}

/// A request that was started; a cheap clone that does not keep it going.
#[derive(Clone, Debug)]
pub(crate) enum Begun {
    Live(OngoingRun),
    Job(Job),
}

#[derive(Debug)]
struct Kept {
    key: Key,
    digest: [u8; 32],
    progress: Progress,
    /// In seconds since 1970.
    at: u64,
}

/// Progress of a request with a key.
#[derive(Clone, Debug)]
enum Progress {
    /// Its pictures are being fetched or it is being submitted. The sender is dropped once it has started or failed.
    Beginning(watch::Receiver<()>),
    Begun(Begun),
}

/// The next action for a request with a key.
enum Turn<'a> {
    /// Start it: it is the first.
    Begin(Beginning<'a>),
    /// Wait: another one is about to start it.
    Wait(watch::Receiver<()>),
    /// Join the one that is running or finished.
    Join(Begun),
}

impl Begun {
    pub(crate) fn live(&self) -> &OngoingRun {
        match self {
            Begun::Live(live) => live,
            Begun::Job(job) => &job.live,
        }
    }

    fn has_failed(&self) -> bool {
        matches!(self.live().stage(), Stage::Ended { outcome: Err(_), .. })
    }
}

impl Kept {
    fn bytes(&self) -> usize {
        match &self.progress {
            Progress::Beginning(_) => 0,
            Progress::Begun(begun) => begun.live().most_bytes(),
        }
    }

    /// Whether the request can still be joined or its answer repeated at `now`.
    fn is_good(&self, now: u64, can_be_told: impl Fn(&Begun) -> bool) -> bool {
        match &self.progress {
            Progress::Beginning(_) => true,
            Progress::Begun(begun) => self.at + LIFETIME > now && !begun.has_failed() && can_be_told(begun),
        }
    }
}

impl Replays {
    /// An empty store. Beyond the bounds the oldest requests are forgotten.
    pub(crate) fn new(bounds: Bounds) -> Self {
        Replays { bounds, kept: Mutex::default() }
    }

    /// Starts a request, unless a request with this key was started, has not failed and can still be answered. In that
    /// case it joins that request, and the returned flag is true. Requests under other keys do not wait for it.
    ///
    /// # Errors
    /// The key was used for a different request, or this one cannot be started.
    pub(crate) async fn once(
        &self,
        key: Key,
        digest: [u8; 32],
        now: u64,
        can_be_told: impl Fn(&Begun) -> bool,
        begin: impl Future<Output = Result<(Begun, Watcher), ApiError>>,
    ) -> Result<(Begun, Watcher, bool), ApiError> {
        let beginning = loop {
            match self.turn(&key, digest, now, &can_be_told)? {
                Turn::Begin(beginning) => break beginning,
                Turn::Join(begun) => {
                    let watcher = begun.live().watch();
                    return Ok((begun, watcher, true));
                }
                // Nothing is sent: `changed` returns when the sender is dropped.
                Turn::Wait(mut begun) => {
                    let _ = begun.changed().await;
                }
            }
        };
        let (begun, watcher) = begin.await?;
        beginning.begun(begun.clone());
        Ok((begun, watcher, false))
    }

    /// Number of kept requests, expired ones included.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.kept().len()
    }

    /// Removes requests that can no longer be answered.
    pub(crate) fn expire(&self, now: u64, can_be_told: impl Fn(&Begun) -> bool) {
        self.kept().retain(|kept| kept.is_good(now, &can_be_told));
    }

    /// Forgets a job, so that a repeated request starts a new one.
    pub(crate) fn forget(&self, job_id: &str) {
        let is_it = |kept: &Kept| matches!(&kept.progress, Progress::Begun(Begun::Job(job)) if job.id == job_id);
        self.kept().retain(|kept| !is_it(kept));
    }

    fn turn(
        &self,
        key: &Key,
        digest: [u8; 32],
        now: u64,
        can_be_told: &impl Fn(&Begun) -> bool,
    ) -> Result<Turn<'_>, ApiError> {
        let mut kept = self.kept();
        kept.retain(|kept| kept.is_good(now, can_be_told));
        if let Some(known) = kept.iter().find(|kept| kept.key == *key) {
            return match &known.progress {
                _ if known.digest != digest => Err(ApiError::KeyReused),
                Progress::Beginning(begun) => Ok(Turn::Wait(begun.clone())),
                Progress::Begun(begun) => Ok(Turn::Join(begun.clone())),
            };
        }
        let (sender, begun) = watch::channel(());
        kept.push(Kept { key: key.clone(), digest, progress: Progress::Beginning(begun), at: now });
        Ok(Turn::Begin(Beginning { replays: self, key: key.clone(), _sender: sender }))
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is being started. Requests that wait for it continue when this is dropped.
struct Beginning<'a> {
    replays: &'a Replays,
    key: Key,
    _sender: watch::Sender<()>,
}

impl Beginning<'_> {
    fn begun(self, begun: Begun) {
        let mut kept = self.replays.kept();
        if let Some(own) = kept.iter_mut().find(|kept| kept.key == self.key) {
            own.progress = Progress::Begun(begun);
        }
        let bounds = self.replays.bounds;
        let mut bytes: usize = kept.iter().map(Kept::bytes).sum();
        while kept.len() > bounds.count || (bytes > bounds.bytes && kept.len() > 1) {
            let Some(oldest) = kept.iter().position(|kept| matches!(kept.progress, Progress::Begun(_))) else { break };
            bytes -= kept.remove(oldest).bytes();
        }
    }
}

impl Drop for Beginning<'_> {
    /// Also runs when the request was refused, or its client left.
    fn drop(&mut self) {
        let is_own = |kept: &Kept| kept.key == self.key && matches!(kept.progress, Progress::Beginning(_));
        self.replays.kept().retain(|kept| !is_own(kept));
    }
}

/// Returns the key of a request with these headers from `owner`.
///
/// # Errors
/// The header is empty, too long or not printable.
pub(crate) fn key(headers: &HeaderMap, owner: u64) -> Result<Option<Key>, ApiError> {
    let Some(given) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let is_decent = (1..=MAX_KEY_LEN).contains(&given.len()) && given.as_bytes().iter().all(u8::is_ascii_graphic);
    if !is_decent {
        let bound = format!("have 1 to {MAX_KEY_LEN} printable characters without spaces");
        let given = String::from_utf8_lossy(given.as_bytes()).chars().take(80).collect::<String>();
        return Err(InvalidRequest::new(IDEMPOTENCY_KEY, bound, format!("{given:?}")).into());
    }
    Ok(Some(Key { owner, key: String::from_utf8_lossy(given.as_bytes()).into_owned() }))
}

/// Digest of what a request means, whatever its bytes: forms use a new boundary each time they are sent. A picture
/// given by URL counts by its URL, and is fetched only for the first request. Hashing reads whole pictures, so it must
/// not run on the event loop.
pub(crate) fn digest(received: &Received) -> [u8; 32] {
    let ImagesRequest {
        endpoint,
        draft,
        output,
        quality,
        delivery,
        run_async,
        return_timings,
        return_cache_stats,
        priority,
        cache,
        safety_identifier,
        ignored,
        warnings: _,
    } = &received.asked;
    let how = (output, quality, delivery, run_async, return_timings, return_cache_stats, priority);
    let mut hash = Hash(Sha256::new());
    let written = write!(hash, "{:?}", (endpoint, draft, how, cache, safety_identifier, ignored));
    written.expect("a hash takes everything. This is a bug.");
    received.attachments.digest(&mut hash.0);
    hash.0.finalize().into()
}

struct Hash(Sha256);

impl Write for Hash {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.update(text);
        Ok(())
    }
}
