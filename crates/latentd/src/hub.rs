//! A checkpoint from the Hugging Face Hub, through its own cache layout.
//!
//! hf-hub is the Hub's own client: it shares the cache with Python's, resumes downloads, and reads
//! `HF_HOME`, `HF_TOKEN` and `HF_ENDPOINT`.

use std::path::PathBuf;
use std::sync::Arc;

use hf_hub::{HFClient, HFError};

use crate::error::Error;
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

/// The folder of repository `id` (`owner/name`) at `revision`: from the cache if it is there whole,
/// else downloaded with a progress bar.
///
/// # Errors
/// The repository or revision does not exist or may not be read, or the network fails and the cache
/// does not have it.
pub(crate) fn snapshot(id: &str, revision: Option<&str>) -> Result<PathBuf, Error> {
    let failed = |err: HFError| Error::Hub(explain(id, &err));
    let client = HFClient::builder().build_sync().map_err(failed)?;
    let (owner, name) = id.split_once('/').expect("a Hub id has an owner. This is a bug.");
    let repository = client.model(owner, name);
    let patterns = || FILES.iter().map(|pattern| (*pattern).to_owned()).collect::<Vec<_>>();

    let download = |local_files_only: bool, bar: Option<Arc<DownloadBar>>| {
        repository
            .snapshot_download()
            .maybe_revision(revision.map(str::to_owned))
            .allow_patterns(patterns())
            .local_files_only(local_files_only)
            .maybe_progress(bar.map(hf_hub::progress::Progress::from))
            .send()
    };
    // A whole cached checkpoint is used as it is, with no look at the network: a server must start
    // the same way on a plane. `--revision` names another.
    if let Ok(folder) = download(true, None)
        && models::Checkpoint::open(&folder).is_ok()
    {
        return Ok(folder);
    }
    if offline() {
        return Err(Error::Hub(format!("`{id}` is not whole in the cache, and HF_HUB_OFFLINE forbids downloading it")));
    }
    download(false, Some(Arc::new(DownloadBar::new(id)))).map_err(failed)
}

/// Whether the Hub's cache has a whole checkpoint of repository `id`. The network is not asked.
pub fn cached(id: &str) -> bool {
    let Some((owner, name)) = id.split_once('/') else { return false };
    let Ok(client) = HFClient::builder().build_sync() else { return false };
    let patterns = FILES.iter().map(|pattern| (*pattern).to_owned()).collect::<Vec<_>>();
    let folder = client.model(owner, name).snapshot_download().allow_patterns(patterns).local_files_only(true).send();
    folder.is_ok_and(|folder| models::Checkpoint::open(folder).is_ok())
}

fn offline() -> bool {
    std::env::var("HF_HUB_OFFLINE")
        .is_ok_and(|value| ["1", "true", "yes", "on"].contains(&value.to_lowercase().as_str()))
}

fn closed(id: &str, err: &HFError) -> String {
    format!("`{id}` may not be read: accept its licence on its Hub page and set HF_TOKEN ({err})")
}

/// What to do next, by what went wrong.
fn explain(id: &str, err: &HFError) -> String {
    match err {
        HFError::RepoNotFound { .. } => {
            format!("the Hub has no model `{id}`, or it is private: check the name, or set HF_TOKEN")
        }
        HFError::AuthRequired { .. } | HFError::Forbidden { .. } => closed(id, err),
        HFError::Http { context } if matches!(context.status.as_u16(), 401 | 403) => closed(id, err),
        HFError::RevisionNotFound { revision, .. } => format!("`{id}` has no revision `{revision}`"),
        HFError::Request { .. } => {
            format!("cannot reach the Hub for `{id}`: {err}. With a copy of the model on disk, name its folder instead")
        }
        other => format!("cannot download `{id}`: {other}"),
    }
}
