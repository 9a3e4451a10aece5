//! Requests that are answered later: a job to ask after, for an hour after its end.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::api::answer::body::images_response;

use crate::api::error::ApiError;
use crate::api::job::ImageJob;
use crate::live::{Failure, Live, Stage};

/// How long a job is kept once it has ended, in seconds.
const LIFETIME: u64 = 60 * 60;
/// How soon to ask again for a place among jobs none of which has ended.
const ASK_AGAIN: u64 = 60;

/// The jobs that are kept.
#[derive(Debug)]
pub(crate) struct Jobs {
    bounds: Bounds,
    kept: Mutex<HashMap<String, Job>>,
}

/// What is kept at most. What is alone is kept whatever it has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) count: usize,
    /// Of the pictures' files; those that are not written yet count uncompressed.
    pub(crate) bytes: usize,
}

impl Bounds {
    /// So many bytes, of a thousand at most.
    pub(crate) fn of(bytes: usize) -> Self {
        Bounds { count: 1024, bytes }
    }
}

/// A request that is answered later; a cheap clone.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) id: String,
    /// Whose it is: to others there is no such job.
    owner: u64,
    /// In seconds since 1970.
    created_at: u64,
    pub(crate) live: Live,
    /// Whether someone was told its end.
    is_told: bool,
}

impl Jobs {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Jobs { bounds, kept: Mutex::default() }
    }

    /// Keeps a job that `owner` submitted at `now`.
    ///
    /// # Errors
    /// As of [`Jobs::check_room`].
    pub(crate) fn add(&self, live: Live, owner: u64, now: u64) -> Result<Job, ApiError> {
        let job =
            Job { id: format!("job_{:032x}", rand::random::<u128>()), owner, created_at: now, live, is_told: false };
        let mut kept = self.kept(now);
        check_room(&kept, self.bounds, job.live.most_bytes(), now)?;
        kept.insert(job.id.clone(), job.clone());
        Ok(job)
    }

    /// Whether there is a place for one job more, however small.
    ///
    /// # Errors
    /// There is none, and when there may be one.
    pub(crate) fn check_room(&self, now: u64) -> Result<(), ApiError> {
        check_room(&self.kept(now), self.bounds, 1, now)
    }

    /// The job of this id, if it is `owner`'s.
    ///
    /// # Errors
    /// It is not.
    pub(crate) fn get(&self, id: &str, owner: u64, now: u64) -> Result<Job, ApiError> {
        let job = self.kept(now).get(id).filter(|job| job.owner == owner).cloned();
        job.ok_or_else(|| ApiError::JobNotFound(id.chars().take(80).collect()))
    }

    /// Whether the job is kept still.
    pub(crate) fn has(&self, id: &str, now: u64) -> bool {
        self.kept(now).contains_key(id)
    }

    /// Someone was told the end of a job, or follows it to that.
    pub(crate) fn note_told(&self, id: &str, now: u64) {
        if let Some(job) = self.kept(now).get_mut(id) {
            job.is_told = true;
        }
    }

    /// Whether nobody has to ask after any of them any more.
    pub(crate) fn are_all_told(&self, now: u64) -> bool {
        self.kept(now).values().all(|job| job.is_told)
    }

    /// How many are kept, expired ones too.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Forgets a job.
    pub(crate) fn remove(&self, id: &str, now: u64) {
        self.kept(now).remove(id);
    }

    /// Lets go what has expired.
    pub(crate) fn expire(&self, now: u64) {
        drop(self.kept(now));
    }

    /// Those that have not expired.
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

    /// As it is now.
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
                // What is left after the last step is the decoding.
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
