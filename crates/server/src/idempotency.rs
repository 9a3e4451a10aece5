//! Requests that a client may send again: with the same `Idempotency-Key` they are one request.

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
use crate::live::{Live, Stage, Watcher};
use crate::uploads::Received;

/// The header that carries a key.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// How long an answer can be had again, in seconds.
const LIFETIME: u64 = 24 * 60 * 60;

/// The requests with keys: those that are going on, and the answers of those that went well.
#[derive(Debug)]
pub(crate) struct Replays {
    bounds: Bounds,
    /// The oldest first.
    kept: Mutex<Vec<Kept>>,
}

/// What a request is told apart by: whose it is, and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) owner: u64,
    pub(crate) key: String,
}

/// A request that was begun; a cheap clone that does not keep it going.
#[derive(Clone, Debug)]
pub(crate) enum Begun {
    Live(Live),
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

/// How far a request with a key is.
#[derive(Clone, Debug)]
enum Progress {
    /// Its pictures are fetched, or it is submitted. The other end is dropped when it has begun, or will not.
    Beginning(watch::Receiver<()>),
    Begun(Begun),
}

/// What a request with a key has to do.
enum Turn<'a> {
    /// It is the first.
    Begin(Beginning<'a>),
    /// Another one is about to begin it.
    Wait(watch::Receiver<()>),
    /// It goes on already, or is answered.
    Join(Begun),
}

impl Begun {
    pub(crate) fn live(&self) -> &Live {
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

    /// Whether the request may still be joined, or answered again, at `now`.
    fn is_good(&self, now: u64, can_be_told: impl Fn(&Begun) -> bool) -> bool {
        match &self.progress {
            Progress::Beginning(_) => true,
            Progress::Begun(begun) => self.at + LIFETIME > now && !begun.has_failed() && can_be_told(begun),
        }
    }
}

impl Replays {
    /// An empty memory. Of what is over the bounds the oldest is forgotten.
    pub(crate) fn new(bounds: Bounds) -> Self {
        Replays { bounds, kept: Mutex::default() }
    }

    /// Begins a request, unless it has been begun under this key, has not failed and can still be told; with whether
    /// that is so. Requests under other keys do not wait for it.
    ///
    /// # Errors
    /// The key stands for another request, or this one cannot be begun.
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
                // Nothing is sent: it ends when the other end is dropped.
                Turn::Wait(mut begun) => {
                    let _ = begun.changed().await;
                }
            }
        };
        let (begun, watcher) = begin.await?;
        beginning.begun(begun.clone());
        Ok((begun, watcher, false))
    }

    /// How many are kept, expired ones too.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.kept().len()
    }

    /// Lets go what can be told no more.
    pub(crate) fn expire(&self, now: u64, can_be_told: impl Fn(&Begun) -> bool) {
        self.kept().retain(|kept| kept.is_good(now, &can_be_told));
    }

    /// Lets a job go: whoever sends its request again makes another one.
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

/// A request that is about to begin. Whatever becomes of it, those that wait for it go on when this is dropped.
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

/// The key of a request with these headers, which `owner` sent.
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

/// The same for requests that mean the same, whatever their bytes: forms have another boundary every
/// time they are sent. A picture that is named by URL is told by that: what is behind it is fetched for the first
/// request alone. It reads whole pictures: not for the event loop.
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
