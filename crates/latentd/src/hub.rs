//! A checkpoint from the Hugging Face Hub, through its own cache layout.
//!
//! hf-hub is the Hub's own client: it shares the cache with Python's, resumes downloads, and reads
//! `HF_HOME`, `HF_TOKEN` and `HF_ENDPOINT`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hf_hub::repository::{RepoTreeEntry, RepoTypeModel};
use hf_hub::{HFClient, HFError, HFRepositorySync};
use models::Checkpoint;

use crate::error::Error;
use crate::hub_cache::HubCache;
use crate::progress::DownloadBar;

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
/// with a progress bar.
///
/// # Errors
/// The repository or revision does not exist or may not be read, is no pipeline, or the network fails and the cache
/// does not have all of it.
pub(crate) fn snapshot(id: &str, revision: Option<&str>) -> Result<PathBuf, Error> {
    let repository = Repository::new(id, revision)?;
    // A whole cached checkpoint is used as it is, with no look at the network: a server must start
    // the same way on a plane. `--revision` names another.
    let lacking = match repository.cached() {
        Cached::Whole(folder) => return Ok(folder),
        lacking => lacking,
    };
    if offline() {
        return Err(Error::Hub(repository.offline(&lacking)));
    }
    let _lock = repository.cache.lock()?;
    // Whoever has been waited for may have fetched what lacked.
    match repository.cached() {
        Cached::Whole(folder) => Ok(folder),
        Cached::Lacks { folder, file } => repository.complete(&folder, &file),
        Cached::Nothing => {
            repository.require_pipeline()?;
            repository.download(revision)
        }
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
    match Repository::new(id, None).map(|repository| repository.cached()) {
        Err(_) | Ok(Cached::Nothing) => InHubCache::Absent,
        Ok(Cached::Lacks { file, .. }) => {
            InHubCache::Faulty(format!("`{file}` is missing, and fetched when the model is run"))
        }
        Ok(Cached::Whole(folder)) => match Checkpoint::open(folder) {
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
    remote: HFRepositorySync<RepoTypeModel>,
    cache: HubCache,
}

impl<'a> Repository<'a> {
    fn new(id: &'a str, revision: Option<&'a str>) -> Result<Self, Error> {
        let root = hf_hub::resolve_cache_dir();
        let client = HFClient::builder().cache_dir(&root).build_sync();
        let client = client.map_err(|err| Error::Hub(format!("cannot start the Hub's client: {err}")))?;
        let (owner, name) = id.split_once('/').expect("a Hub id has an owner. This is a bug.");
        Ok(Repository { id, revision, remote: client.model(owner, name), cache: HubCache::new(id, root) })
    }

    /// What the cache has. The network is not asked.
    fn cached(&self) -> Cached {
        let local = self.remote.snapshot_download().maybe_revision(self.revision.map(str::to_owned));
        let Ok(folder) = local.local_files_only(true).send() else { return Cached::Nothing };
        match Checkpoint::open(&folder).err().and_then(|err| err.missing_file()) {
            Some(file) => Cached::Lacks { folder, file },
            None => Cached::Whole(folder),
        }
    }

    /// Fetches what `folder` of the cache lacks: of the same commit, so that what is there counts. If the Hub does not
    /// have it any more, the revision as it is now.
    fn complete(&self, folder: &Path, file: &str) -> Result<PathBuf, Error> {
        let commit = folder.file_name().map(|name| name.to_string_lossy().into_owned());
        match self.download(commit.as_deref()) {
            Ok(folder) if Checkpoint::open(&folder).err().and_then(|err| err.missing_file()).is_none() => Ok(folder),
            Err(Error::Hub(reason)) if reason.starts_with(UNREACHABLE) => {
                Err(Error::Hub(format!("the Hub's cache has `{}` without `{file}`, and {reason}", self.id)))
            }
            _ => self.download(self.revision),
        }
    }

    /// Downloads what the cache lacks of `revision`, once no other program downloads it.
    fn download(&self, revision: Option<&str>) -> Result<PathBuf, Error> {
        tracing::info!(model = self.id, cache = %self.cache.root().display(), "downloading");
        let download = || {
            let bar = Arc::new(DownloadBar::new(self.id));
            let builder = self.remote.snapshot_download().maybe_revision(revision.map(str::to_owned));
            let patterns = FILES.iter().map(|pattern| (*pattern).to_owned()).collect::<Vec<_>>();
            match builder.allow_patterns(patterns).progress(bar).send() {
                Err(HFError::CacheLockTimeout { .. }) => None,
                result => Some(result),
            }
        };
        self.cache.after_others(download)?.map_err(|err| self.explain(&err))
    }

    /// Refuses a repository that has no pipeline, before 20 GB of it are downloaded.
    fn require_pipeline(&self) -> Result<(), Error> {
        let tree = self.remote.list_tree().maybe_revision(self.revision.map(str::to_owned)).recursive(true).send();
        let files = tree.map_err(|err| self.explain(&err))?.into_iter().filter_map(|entry| match entry {
            RepoTreeEntry::File { path, .. } => Some(path),
            RepoTreeEntry::Directory { .. } => None,
        });
        let files: Vec<_> = files.collect();
        match files.iter().any(|file| file == "model_index.json") {
            true => Ok(()),
            false => Err(models::not_diffusers(self.id, &files).into()),
        }
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
    fn explain(&self, err: &HFError) -> Error {
        let id = self.id;
        Error::Hub(match err {
            HFError::Io(source) => return self.cache.unwritable(source),
            HFError::RepoNotFound { .. } => {
                format!("the Hub has no model `{id}`, or it is private: check the name, or set HF_TOKEN")
            }
            HFError::AuthRequired { .. } | HFError::Forbidden { .. } => closed(id, err),
            HFError::Http { context } if matches!(context.status.as_u16(), 401 | 403) => closed(id, err),
            HFError::RevisionNotFound { revision, .. } => format!("`{id}` has no revision `{revision}`"),
            HFError::Request { .. } => {
                format!("{UNREACHABLE} for `{id}`: {err}. With a copy of the model on disk, name its folder instead")
            }
            other => format!("cannot download `{id}`: {other}"),
        })
    }
}

/// How the message begins where the network fails.
const UNREACHABLE: &str = "cannot reach the Hub";

fn offline() -> bool {
    std::env::var("HF_HUB_OFFLINE")
        .is_ok_and(|value| ["1", "true", "yes", "on"].contains(&value.to_lowercase().as_str()))
}

fn closed(id: &str, err: &HFError) -> String {
    format!("`{id}` may not be read: accept its licence on its Hub page and set HF_TOKEN ({err})")
}
