//! Checkpoints from the Hugging Face Hub, in the cache layout that Python's client uses too.
//!
//! hf-hub provides the layout only. Version 1 of its client cannot be built without Xet and aws-lc, a fifth of the
//! first build, and does not resume downloads. Version 0.5 accepts only built-in certificates, and downloads cached
//! files again after every new commit. `client.rs` sends the requests instead, with the server's HTTP client.

mod cache;
mod client;
mod download;
mod settings;

pub(crate) use std::path::{Path, PathBuf};

use models::Checkpoint;

use crate::error::Error;
use crate::observer::LoadObserver;
use cache::HubCache;
use client::{HubClient, HubError};
use download::download;
pub(crate) use settings::HubSettings;

/// The files of the diffusers layout that are read: no ONNX, no images, no second copies in `.bin`.
const FILES: &[&str] = &[
    "latentd.json",
    "model_index.json",
    "processor/*.json",
    "scheduler/*.json",
    "text_encoder/*.json",
    "text_encoder/*.safetensors",
    "tokenizer/*",
    "transformer/*.json",
    "transformer/*.safetensors",
    "vae/*.json",
    "vae/*.safetensors",
];

/// The folder of repository `id` (`owner/name`) at `revision`. Files missing from the cache are downloaded, and
/// `observer` follows the download.
///
/// # Errors
/// The repository or revision does not exist, cannot be read or is not a pipeline; or the network fails and the cache
/// is incomplete.
pub(crate) fn snapshot(id: &str, revision: Option<&str>, observer: &dyn LoadObserver) -> Result<PathBuf, Error> {
    let settings = HubSettings::from_env();
    let repository = Repository::new(id, revision, &settings);
    // A complete cached checkpoint is used without asking the network, so that a server starts the same way offline.
    // `--revision` selects another.
    let lacking = match repository.cached() {
        Cached::Whole(folder) => return Ok(folder),
        lacking => lacking,
    };
    if settings.offline {
        return Err(Error::Hub(repository.offline(&lacking)));
    }
    let _lock = repository.cache.lock()?;
    // The process that held the lock may have downloaded the missing files.
    match repository.cached() {
        Cached::Whole(folder) => Ok(folder),
        Cached::Lacks { folder, file } => repository.complete(&folder, &file, observer),
        Cached::Nothing => repository.download(repository.revision(), observer),
    }
}

/// How much of a repository the Hub's cache has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InHubCache {
    /// Nothing.
    Absent,
    /// All files that loading reads.
    Whole,
    /// Some files, and what is wrong with them.
    Faulty(String),
}

/// How much of repository `id` the Hub's cache has, without a network request.
pub fn in_hub_cache(id: &str) -> InHubCache {
    match Repository::new(id, None, &HubSettings::from_env()).cached() {
        Cached::Nothing => InHubCache::Absent,
        Cached::Lacks { file, .. } => {
            InHubCache::Faulty(format!("`{file}` is missing, and fetched when the model is run"))
        }
        Cached::Whole(folder) => match Checkpoint::open(folder) {
            Ok(_) => InHubCache::Whole,
            Err(err) => InHubCache::Faulty(err.to_string()),
        },
    }
}

/// How much of a revision the cache has.
enum Cached {
    Nothing,
    /// A part, and the first missing file.
    Lacks {
        folder: PathBuf,
        file: String,
    },
    /// All files that loading reads, though some may be damaged.
    Whole(PathBuf),
}

/// A repository of the Hub at a revision.
struct Repository<'a> {
    id: &'a str,
    revision: Option<&'a str>,
    settings: &'a HubSettings,
    cache: HubCache,
}

impl<'a> Repository<'a> {
    fn new(id: &'a str, revision: Option<&'a str>, settings: &'a HubSettings) -> Self {
        Repository { id, revision, settings, cache: HubCache::new(id, settings.cache_dir.clone()) }
    }

    fn revision(&self) -> &'a str {
        self.revision.unwrap_or("main")
    }

    /// How much the cache has, without a network request.
    fn cached(&self) -> Cached {
        let Some(folder) = self.cache.snapshot_at(self.revision()) else { return Cached::Nothing };
        match Checkpoint::open(&folder).err().and_then(|err| err.missing_file()) {
            Some(file) => Cached::Lacks { folder, file },
            None => Cached::Whole(folder),
        }
    }

    /// Downloads the files missing from `folder` of the cache, from the same commit, so that the cached files count. If
    /// the Hub no longer has that commit, downloads the current revision.
    fn complete(&self, folder: &Path, file: &str, observer: &dyn LoadObserver) -> Result<PathBuf, Error> {
        let commit = folder.file_name().map_or_else(|| self.revision().into(), |name| name.to_string_lossy());
        match self.download(&commit, observer) {
            Ok(folder) if Checkpoint::open(&folder).err().and_then(|err| err.missing_file()).is_none() => Ok(folder),
            Err(Error::Hub(reason)) if reason.starts_with(UNREACHABLE) => {
                Err(Error::Hub(format!("the Hub's cache has `{}` without `{file}`, and {reason}", self.id)))
            }
            _ => self.download(self.revision(), observer),
        }
    }

    /// Downloads the missing files of `revision`, once no other program downloads them.
    fn download(&self, revision: &str, observer: &dyn LoadObserver) -> Result<PathBuf, Error> {
        tracing::info!(model = self.id, cache = %self.cache.root().display(), "downloading");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|err| Error::Hub(format!("cannot start the Hub's client: {err}")))?;
        let client = HubClient::new(self.id, self.settings).map_err(|err| self.explain(&err, revision))?;
        let listing = runtime.block_on(client.list(revision)).map_err(|err| self.explain(&err, revision))?;
        // Checked first, because the weights are 20 GB.
        if !listing.files.iter().any(|file| file == "model_index.json") {
            return Err(models::not_diffusers(self.id, &listing.files).into());
        }
        let files: Vec<_> = listing.files.iter().map(String::as_str).filter(|file| is_read(file)).collect();
        let attempt = || {
            let progress = |arrived, total| observer.downloading(self.id, arrived, total);
            match runtime.block_on(download(&client, &self.cache, &listing.commit, &files, &progress)) {
                Err(HubError::Locked) => None,
                result => Some(result),
            }
        };
        let folder = self.cache.after_others(attempt);
        observer.downloaded(self.id);
        let folder = folder?.map_err(|err| self.explain(&err, revision))?;
        self.cache.point(revision, &listing.commit).map_err(|err| self.cache.unwritable(&err))?;
        Ok(folder)
    }

    /// The message for a model that would need the network in offline mode.
    fn offline(&self, lacking: &Cached) -> String {
        let (id, root) = (self.id, self.cache.root().display());
        let next = "unset it to have it downloaded, or name a model's folder";
        match lacking {
            Cached::Lacks { file, folder } => format!(
                "`{id}` is not whole in the cache: `{file}` is missing in `{}`, and HF_HUB_OFFLINE forbids downloading \
                 it: {next}",
                folder.display()
            ),
            _ => {
                format!("`{id}` is not in the Hub's cache `{root}`, and HF_HUB_OFFLINE forbids downloading it: {next}")
            }
        }
    }

    /// Turns a Hub error into a message that says what to do next.
    fn explain(&self, err: &HubError, revision: &str) -> Error {
        let id = self.id;
        Error::Hub(match err {
            HubError::Io(source) => return self.cache.unwritable(source),
            HubError::NoRepository => {
                format!("the Hub has no model `{id}`, or it is private: check the name, or set HF_TOKEN")
            }
            HubError::Closed(_) => {
                format!("`{id}` may not be read: accept its licence on its Hub page and set HF_TOKEN ({err})")
            }
            HubError::NoRevision => format!("`{id}` has no revision `{revision}`"),
            HubError::Unreachable(_) => {
                format!("{UNREACHABLE} for `{id}`: {err}. With a copy of the model on disk, name its folder instead")
            }
            other => format!("cannot download `{id}`: {other}"),
        })
    }
}

/// Start of the message for a network failure.
const UNREACHABLE: &str = "cannot reach the Hub";

/// Whether loading reads `file` of a repository.
fn is_read(file: &str) -> bool {
    FILES.iter().any(|pattern| match pattern.split_once('*') {
        Some((start, end)) => file.strip_prefix(start).is_some_and(|rest| rest.ends_with(end)),
        None => file == *pattern,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_read_is_not_downloaded() {
        for file in ["model_index.json", "vae/config.json", "transformer/a-00001-of-00002.safetensors", "tokenizer/x"] {
            assert!(is_read(file), "{file}");
        }
        for file in ["README.md", "model_index.json.bak", "transformer/model.bin", "onnx/vae/config.json", "vae.json"] {
            assert!(!is_read(file), "{file}");
        }
    }
}
