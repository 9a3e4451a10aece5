//! Requests that a client may send again: with the same `Idempotency-Key` they are one request.

use std::fmt::{self, Write};
use std::future::Future;

use axum::http::HeaderMap;
use diffusion::InvalidRequest;
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;

use crate::error::ApiError;
use crate::jobs::{Bounds, Job};
use crate::live::{Live, Stage, Watcher};
use crate::request::ImagesRequest;

/// The header that carries a key.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Most bytes of a key.
pub(crate) const MAX_LEN: usize = 255;
/// How long an answer can be had again, in seconds.
const LIFETIME: u64 = 24 * 60 * 60;

/// The requests with keys: those that are going on, and the answers of those that went well.
#[derive(Debug)]
pub(crate) struct Replays {
    bounds: Bounds,
    /// The oldest first. Held while a request is submitted, so that its repetition finds it.
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
    begun: Begun,
    /// In seconds since 1970.
    at: u64,
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

impl Replays {
    /// An empty memory. Of what is over the bounds the oldest is forgotten.
    pub(crate) fn new(bounds: Bounds) -> Self {
        Replays { bounds, kept: Mutex::default() }
    }

    /// Begins a request, unless it has been begun under this key and has not failed; with whether that
    /// is so.
    ///
    /// # Errors
    /// The key stands for another request, or this one cannot be begun.
    pub(crate) async fn once(
        &self,
        key: Key,
        digest: [u8; 32],
        now: u64,
        begin: impl Future<Output = Result<(Begun, Watcher), ApiError>>,
    ) -> Result<(Begun, Watcher, bool), ApiError> {
        let mut kept = self.kept.lock().await;
        kept.retain(|kept| kept.at + LIFETIME > now && !kept.begun.has_failed());
        if let Some(known) = kept.iter().find(|kept| kept.key == key) {
            if known.digest != digest {
                return Err(ApiError::KeyReused);
            }
            return Ok((known.begun.clone(), known.begun.live().watch(), true));
        }
        let (begun, watcher) = begin.await?;
        kept.push(Kept { key, digest, begun: begun.clone(), at: now });
        let mut bytes: usize = kept.iter().map(|kept| kept.begun.live().bytes()).sum();
        while kept.len() > self.bounds.count || (bytes > self.bounds.bytes && kept.len() > 1) {
            bytes -= kept.remove(0).begun.live().bytes();
        }
        Ok((begun, watcher, false))
    }
}

/// The key of a request with these headers, which `owner` sent.
///
/// # Errors
/// The header is empty, too long or not printable.
pub(crate) fn key(headers: &HeaderMap, owner: u64) -> Result<Option<Key>, ApiError> {
    let Some(given) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let is_decent = (1..=MAX_LEN).contains(&given.len()) && given.as_bytes().iter().all(u8::is_ascii_graphic);
    if !is_decent {
        let bound = format!("have 1 to {MAX_LEN} printable characters without spaces");
        let given = String::from_utf8_lossy(given.as_bytes()).chars().take(80).collect::<String>();
        return Err(InvalidRequest::new(IDEMPOTENCY_KEY, bound, format!("{given:?}")).into());
    }
    Ok(Some(Key { owner, key: String::from_utf8_lossy(given.as_bytes()).into_owned() }))
}

/// The same for requests that mean the same, whatever their bytes: forms have another boundary every
/// time they are sent. It reads a whole mask: not for the event loop.
pub(crate) fn digest(asked: &ImagesRequest) -> [u8; 32] {
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
    } = asked;
    let how = (output, quality, delivery, run_async, return_timings, return_cache_stats, priority);
    let mut hash = Hash(Sha256::new());
    let written = write!(hash, "{:?}", (endpoint, draft, how, cache, safety_identifier, ignored));
    written.expect("a hash takes everything. This is a bug.");
    // Of pictures and masks the debug format has no more than the size.
    draft.input_images.iter().for_each(|input| hash.0.update(input.digest));
    if let Some(mask) = &draft.mask {
        hash.0.update(&mask.editable);
    }
    hash.0.finalize().into()
}

struct Hash(Sha256);

impl Write for Hash {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.update(text);
        Ok(())
    }
}
