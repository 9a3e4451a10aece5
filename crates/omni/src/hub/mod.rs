//! A checkpoint from the Hugging Face Hub, through its own cache layout, which Python's client shares.
//!
//! hf-hub provides the layout only. Version 1 of its client cannot be built without Xet and aws-lc, a fifth of the first
//! build, and does not resume downloads. Version 0.5 accepts only built-in certificates, and downloads cached files
//! again after every new commit. `client.rs` sends the requests instead, with the server's HTTP client.

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

/// The folder of repository `id` (`owner/name`) at `revision`: from the cache if it is there whole, else completed
/// which `observer` is told of.
///
/// # Errors
/// The repository or revision does not exist or may not be read, is no pipeline, or the network fails and the cache
/// does not have all of it.
pub(crate) fn snapshot(id: &str, revision: Option<&str>, observer: &dyn LoadObserver) -> Result<PathBuf, Error> {
    let settings = HubSettings::from_env();
    let repository = Repository::new(id, revision, &settings);
    // A whole cached checkpoint is used as it is, with no look at the network: a server must start
    // the same way on a plane. `--revision` names another.
    let lacking = match repository.cached() {
        Cached::Whole(folder) => return Ok(folder),
        lacking => lacking,
    };
    if settings.offline {
        return Err(Error::Hub(repository.offline(&lacking)));
    }
    let _lock = repository.cache.lock()?;
    // Whoever has been waited for may have fetched what lacked.
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
    /// All that loading reads.
    Whole,
    /// Something, and what is wrong with it.
    Faulty(String),
}

/// How much of repository `id` the Hub's cache has. The network is not asked.
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

/// What the cache has of a revision.
enum Cached {
    Nothing,
    /// No more than part of it, and the first file that lacks.
    Lacks {
        folder: PathBuf,
        file: String,
    },
    /// All that loading reads, though it may be wrong with it.
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

    /// What the cache has. The network is not asked.
    fn cached(&self) -> Cached {
        let Some(folder) = self.cache.snapshot_at(self.revision()) else { return Cached::Nothing };
        match Checkpoint::open(&folder).err().and_then(|err| err.missing_file()) {
            Some(file) => Cached::Lacks { folder, file },
            None => Cached::Whole(folder),
        }
    }

    /// Fetches what `folder` of the cache lacks: of the same commit, so that what is there counts. If the Hub does not
    /// have it any more, the revision as it is now.
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

    /// Downloads what the cache lacks of `revision`, once no other program downloads it.
    fn download(&self, revision: &str, observer: &dyn LoadObserver) -> Result<PathBuf, Error> {
        tracing::info!(model = self.id, cache = %self.cache.root().display(), "downloading");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|err| Error::Hub(format!("cannot start the Hub's client: {err}")))?;
        let client = HubClient::new(self.id, self.settings).map_err(|err| self.explain(&err, revision))?;
        let listing = runtime.block_on(client.list(revision)).map_err(|err| self.explain(&err, revision))?;
        // Checked before 20 GB are downloaded.
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

    /// Why there is no model without the network.
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

    /// What to do next, by what went wrong.
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

/// How the message begins where the network fails.
const UNREACHABLE: &str = "cannot reach the Hub";

/// Whether `file` of a repository is one of those that are read.
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
