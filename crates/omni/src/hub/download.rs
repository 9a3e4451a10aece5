//! Downloads files into the Hub's cache: several at a time, each resumed where it was interrupted.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use futures_util::stream::{self, StreamExt, TryStreamExt};
use reqwest::StatusCode;

use super::cache::HubCache;
use super::client::{FileHead, HubClient, HubError, Retries};

/// Maximum number of concurrent metadata requests, and of concurrent downloads.
const HEADS: usize = 8;
const FETCHES: usize = 8;

/// Downloads the `files` of `commit` that the cache lacks, and returns the commit's folder. `progress` receives the
/// bytes downloaded and in total.
///
/// # Errors
/// [`HubError::Locked`] if another program downloads one of the files; errors of the Hub, the network and the disk.
pub(crate) async fn download(
    client: &HubClient,
    cache: &HubCache,
    commit: &str,
    files: &[&str],
    progress: &dyn Fn(u64, u64),
) -> Result<PathBuf, HubError> {
    let folder = cache.snapshot(commit);
    let missing = files.iter().copied().filter(|file| !folder.join(file).exists());
    let heads = missing.map(|file| async move { Ok::<_, HubError>((file, client.head(commit, file).await?)) });
    let heads: Vec<(&str, FileHead)> = stream::iter(heads).buffer_unordered(HEADS).try_collect().await?;
    // Files with the same contents are downloaded once.
    let blobs: BTreeMap<_, _> = heads.iter().map(|(file, head)| (&head.etag, (*file, head))).collect();
    let blobs: Vec<_> = blobs.into_values().filter(|(_, head)| !cache.blob(&head.etag).exists()).collect();
    let fetch = Fetch { client, cache, commit, tally: Tally::new(&blobs, progress) };
    let fetches = blobs.iter().map(|(file, head)| fetch.blob(file, head));
    stream::iter(fetches).buffer_unordered(FETCHES).try_collect::<()>().await?;
    for (file, head) in &heads {
        cache.link(commit, file, &head.etag)?;
    }
    Ok(folder)
}

/// Downloads the contents of one commit.
struct Fetch<'a> {
    client: &'a HubClient,
    cache: &'a HubCache,
    commit: &'a str,
    tally: Tally<'a>,
}

impl Fetch<'_> {
    /// Downloads the contents of `file`. Progress between two failures resets the count of retries.
    async fn blob(&self, file: &str, head: &FileHead) -> Result<(), HubError> {
        let Some(_lock) = self.cache.lock_blob(&head.etag)? else { return Err(HubError::Locked) };
        let unfinished = self.cache.unfinished(&head.etag);
        let mut retries = Retries::default();
        loop {
            let before = length(&unfinished);
            match self.rest(file, head, &unfinished).await {
                Ok(()) => break,
                Err(err) if err.is_transient() => {
                    if length(&unfinished) > before {
                        retries = Retries::default();
                    }
                    retries.wait(err).await?;
                }
                Err(err) => return Err(err),
            }
        }
        Ok(std::fs::rename(unfinished, self.cache.blob(&head.etag))?)
    }

    /// Appends the missing rest of `file` to `unfinished`.
    async fn rest(&self, file: &str, head: &FileHead, unfinished: &Path) -> Result<(), HubError> {
        let mut blob = OpenOptions::new().create(true).append(true).open(unfinished)?;
        let has = blob.metadata()?.len();
        if has > 0 && head.size == Some(has) {
            self.tally.set(head, has);
            return Ok(());
        }
        let (mut has, mut answer) = self.answer(file, head, &mut blob, has).await?;
        self.tally.set(head, has);
        while let Some(piece) = answer.chunk().await? {
            blob.write_all(&piece)?;
            has += piece.len() as u64;
            self.tally.set(head, has);
        }
        match head.size {
            Some(size) if size != has => {
                blob.set_len(0)?;
                Err(HubError::Malformed(format!("`{file}` has {has} bytes, where the Hub says {size}")))
            }
            _ => Ok(()),
        }
    }

    /// Requests `file` from byte `has` on, or whole if `blob` cannot be continued. Returns the length to which `blob`
    /// was cut, and the response.
    async fn answer(
        &self,
        file: &str,
        head: &FileHead,
        blob: &mut File,
        has: u64,
    ) -> Result<(u64, reqwest::Response), HubError> {
        let start = if head.size.is_some_and(|size| has > size) { 0 } else { has };
        match self.client.get(self.commit, file, start).await {
            Ok((start, answer)) => {
                blob.set_len(start)?;
                Ok((start, answer))
            }
            Err(HubError::Status { url, status: StatusCode::RANGE_NOT_SATISFIABLE }) => {
                blob.set_len(0)?;
                Err(HubError::Status { url, status: StatusCode::RANGE_NOT_SATISFIABLE })
            }
            Err(err) => Err(err),
        }
    }
}

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |file| file.len())
}

/// The bytes received of each blob.
struct Tally<'a> {
    arrived: RefCell<BTreeMap<String, u64>>,
    total: u64,
    progress: &'a dyn Fn(u64, u64),
}

impl<'a> Tally<'a> {
    fn new(blobs: &[(&str, &FileHead)], progress: &'a dyn Fn(u64, u64)) -> Self {
        let total = blobs.iter().filter_map(|(_, head)| head.size).sum();
        Tally { arrived: RefCell::default(), total, progress }
    }

    fn set(&self, head: &FileHead, bytes: u64) {
        let mut arrived = self.arrived.borrow_mut();
        arrived.insert(head.etag.clone(), bytes);
        let sum: u64 = arrived.values().sum();
        (self.progress)(sum, self.total.max(sum));
    }
}
