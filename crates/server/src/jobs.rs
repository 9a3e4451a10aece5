//! Async requests: jobs that clients poll, kept for an hour after their end.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::api::answer::body::images_response;
use crate::api::error::ApiError;
use crate::api::job::ImageJob;
use crate::live::{Failure, OngoingRun, Stage};

/// Time for which an ended job is kept, in seconds.
const LIFETIME: u64 = 60 * 60;
/// Retry-after for a full store in which no job has ended, in seconds.
const ASK_AGAIN: u64 = 60;

/// The kept jobs.
#[derive(Debug)]
pub(crate) struct Jobs {
    bounds: Bounds,
    kept: Mutex<HashMap<String, Job>>,
}

/// Bounds of a store. A single entry is kept whatever its size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) count: usize,
    /// Bytes of the picture files; a file that is not written yet counts uncompressed.
    pub(crate) bytes: usize,
}

impl Bounds {
    /// At most this many bytes, in at most 1024 entries.
    pub(crate) fn of(bytes: usize) -> Self {
        Bounds { count: 1024, bytes }
    }
}

/// An async request; a cheap clone.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) id: String,
    /// The owner; other callers cannot see the job.
    owner: u64,
    /// In seconds since 1970.
    created_at: u64,
    pub(crate) live: OngoingRun,
    /// Whether a client has read its end.
    is_told: bool,
}

impl Jobs {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Jobs { bounds, kept: Mutex::default() }
    }

    /// Stores a job that `owner` submitted at `now`.
    ///
    /// # Errors
    /// Same as [`Jobs::check_room`].
    pub(crate) fn add(&self, live: OngoingRun, owner: u64, now: u64) -> Result<Job, ApiError> {
        let job =
            Job { id: format!("job_{:032x}", rand::random::<u128>()), owner, created_at: now, live, is_told: false };
        let mut kept = self.kept(now);
        check_room(&kept, self.bounds, job.live.most_bytes(), now)?;
        kept.insert(job.id.clone(), job.clone());
        Ok(job)
    }

    /// Checks that there is room for another job of any size.
    ///
    /// # Errors
    /// There is no room; the error says when to retry.
    pub(crate) fn check_room(&self, now: u64) -> Result<(), ApiError> {
        check_room(&self.kept(now), self.bounds, 1, now)
    }

    /// Returns the job with this id if it belongs to `owner`.
    ///
    /// # Errors
    /// There is no such job.
    pub(crate) fn get(&self, id: &str, owner: u64, now: u64) -> Result<Job, ApiError> {
        let job = self.kept(now).get(id).filter(|job| job.owner == owner).cloned();
        job.ok_or_else(|| ApiError::JobNotFound(id.chars().take(80).collect()))
    }

    /// Whether the job is still kept.
    pub(crate) fn has(&self, id: &str, now: u64) -> bool {
        self.kept(now).contains_key(id)
    }

    /// Marks a job whose end a client has read, or whose events it follows to the end.
    pub(crate) fn note_told(&self, id: &str, now: u64) {
        if let Some(job) = self.kept(now).get_mut(id) {
            job.is_told = true;
        }
    }

    /// Whether no client has to poll a job any more.
    pub(crate) fn are_all_told(&self, now: u64) -> bool {
        self.kept(now).values().all(|job| job.is_told)
    }

    /// Number of kept jobs, expired ones included.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Forgets a job.
    pub(crate) fn remove(&self, id: &str, now: u64) {
        self.kept(now).remove(id);
    }

    /// Removes expired jobs.
    pub(crate) fn expire(&self, now: u64) {
        drop(self.kept(now));
    }

    /// The jobs that have not expired.
    fn kept(&self, now: u64) -> MutexGuard<'_, HashMap<String, Job>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, job| job.expires_at().is_none_or(|expires| expires > now));
        kept
    }
}

fn check_room(kept: &HashMap<String, Job>, bounds: Bounds, more: usize, now: u64) -> Result<(), ApiError> {
    let bytes: usize = kept.values().map(|job| job.live.most_bytes()).sum();
    if kept.is_empty() || kept.len() < bounds.count && bytes.saturating_add(more) <= bounds.bytes {
        return Ok(());
    }
    let next = kept.values().filter_map(Job::expires_at).min();
    let wait = next.map_or(ASK_AGAIN, |expires| expires.saturating_sub(now));
    Err(ApiError::JobsFull { wait: Duration::from_secs(wait) })
}

impl Job {
    fn expires_at(&self) -> Option<u64> {
        match self.live.stage() {
            Stage::Ended { at, .. } => Some(at + LIFETIME),
            _ => None,
        }
    }

    /// The job's present state, as the client sees it.
    pub(crate) fn told(&self) -> ImageJob {
        let stage = self.live.stage();
        let terms = &self.live.terms;
        let mut job = ImageJob {
            id: self.id.clone(),
            object: "image.job",
            status: "queued",
            progress: 0,
            queue_position: None,
            created_at: self.created_at,
            expires_at: None,
            error: None,
            result: None,
        };
        match stage {
            Stage::Queued { position } => job.queue_position = Some(position),
            Stage::Running { steps_taken } => {
                // The last percent is the decoding.
                (job.status, job.progress) = ("in_progress", (steps_taken * 100 / terms.all_steps()).min(99));
            }
            Stage::Ended { at, outcome } => {
                job.expires_at = Some(at + LIFETIME);
                match outcome {
                    Ok(()) => {
                        (job.status, job.progress) = ("completed", 100);
                        job.result = Some(images_response(terms, &self.live.pictures()));
                    }
                    Err(Failure::Cancelled) => job.status = "cancelled",
                    Err(failure) => {
                        job.status = "failed";
                        job.error = Some(ApiError::from(failure).body());
                    }
                }
            }
        }
        job
    }
}
