//! The history of a run, for readers that arrive at any time.

use std::collections::BTreeMap;
use std::sync::Arc;

use scheduler::JobError;

use crate::api::answer::picture::{FinishedPicture, Partial};
use crate::api::answer::step::Step;
use crate::api::error::ApiError;

/// Most previews of one picture that are kept for readers. It is OpenAI's maximum, so a client that counts previews
/// receives all of them.
pub(super) const KEPT_PREVIEWS: usize = 3;

/// The history of a run so far.
#[derive(Debug, Default)]
pub(crate) struct RunHistory {
    /// Entries by number. Dropped previews leave gaps in the numbers.
    pub(super) entries: BTreeMap<u64, RunUpdate>,
    pub(super) next: u64,
    pub(super) is_started: bool,
    pub(super) steps_taken: usize,
    pub(super) ended: Option<Ended>,
}

/// How and when a run ended.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    /// In seconds since 1970.
    pub(super) at: u64,
    pub(super) outcome: Result<(), Failure>,
}

/// An entry that readers see; a cheap clone.
#[derive(Clone, Debug)]
pub(crate) enum RunUpdate {
    Step(Arc<Step>),
    /// The steps of this picture that were reported are void; its job reports them again.
    Restarted {
        image_index: usize,
        created_at: u64,
    },
    Partial(Arc<Partial>),
    Completed(Arc<FinishedPicture>),
}

/// Why a run has no pictures, or not all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Job(JobError),
    Internal(String),
    /// The client or the server cancelled the run.
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

impl RunHistory {
    /// The first entry whose number is at least `cursor`.
    pub(super) fn at(&self, cursor: u64) -> Option<(u64, &RunUpdate)> {
        self.entries.range(cursor..).next().map(|(number, entry)| (*number, entry))
    }

    pub(super) fn push(&mut self, entry: RunUpdate) {
        if let RunUpdate::Partial(partial) = &entry {
            let is_of_it =
                |entry: &RunUpdate| matches!(entry, RunUpdate::Partial(p) if p.image_index == partial.image_index);
            let kept = self.entries.iter().filter(|(_, entry)| is_of_it(entry)).map(|(number, _)| *number);
            let kept: Vec<u64> = kept.collect();
            if kept.len() >= KEPT_PREVIEWS {
                self.entries.remove(&kept[0]);
            }
        }
        self.entries.insert(self.next, entry);
        self.next += 1;
    }

    /// Drops the previews of a picture.
    pub(super) fn forget_previews(&mut self, of: usize) {
        self.entries.retain(|_, entry| !matches!(entry, RunUpdate::Partial(partial) if partial.image_index == of));
    }

    /// Drops the steps of a picture, so that later readers see only the valid ones.
    pub(super) fn forget_steps(&mut self, of: usize) {
        self.entries.retain(|_, entry| match entry {
            RunUpdate::Step(step) => step.image_index != of,
            RunUpdate::Restarted { image_index, .. } => *image_index != of,
            _ => true,
        });
    }

    pub(super) fn pictures(&self) -> Vec<Arc<FinishedPicture>> {
        let completed = self.entries.values().filter_map(|entry| match entry {
            RunUpdate::Completed(picture) => Some(picture.clone()),
            _ => None,
        });
        let mut pictures: Vec<_> = completed.collect();
        pictures.sort_by_key(|picture| picture.image_index);
        pictures
    }

    pub(super) fn bytes(&self) -> usize {
        let bytes = |entry: &RunUpdate| match entry {
            RunUpdate::Step(step) => size_of::<Step>() + size_of_val(&*step.report.runs),
            RunUpdate::Restarted { .. } => size_of::<RunUpdate>(),
            RunUpdate::Partial(partial) => partial.file.len(),
            RunUpdate::Completed(picture) => picture.file.len(),
        };
        self.entries.values().map(bytes).sum()
    }
}
