//! The Hub's cache on this machine: its paths, and the locks between processes that write to it.
//!
//! Python's client locks single files. Here one process at a time downloads a whole repository, and it holds the locks
//! of the files too. The other processes wait as long as bytes arrive.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use crate::error::Error;

/// Environment variables that place the cache; the first that is set wins.
const VARIABLES: [&str; 4] = ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"];
/// The lock of a whole repository, beside those of its files.
const LOCK: &str = "latentd.lock";
/// Interval at which a waiting process tries again.
const POLL: Duration = Duration::from_millis(200);
/// How long another process's download may stall before a waiting process gives up.
const PATIENCE: Duration = Duration::from_secs(300);

/// A repository's place in the cache.
pub(crate) struct HubCache {
    id: String,
    root: PathBuf,
    locks: PathBuf,
    blobs: PathBuf,
    patience: Duration,
}

/// The lock of the process that downloads. The system releases it when the process ends, even after a crash.
pub(crate) struct DownloadLock {
    _file: File,
}

impl HubCache {
    /// The place of repository `id` (`owner/name`) in the cache at `root`.
    pub(crate) fn new(id: &str, root: PathBuf) -> Self {
        let folder = Repo::model(id.into()).folder_name();
        HubCache {
            id: id.into(),
            locks: root.join(".locks").join(&folder),
            blobs: root.join(folder).join("blobs"),
            root,
            patience: PATIENCE,
        }
    }

    /// The folder of `revision`, if it exists.
    pub(crate) fn snapshot_at(&self, revision: &str) -> Option<PathBuf> {
        let commit = match is_commit(revision) {
            true => revision.to_owned(),
            false => std::fs::read_to_string(self.blobs.with_file_name("refs").join(revision)).ok()?,
        };
        Some(self.snapshot(commit.trim())).filter(|folder| folder.is_dir())
    }

    /// The folder of a commit.
    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.at(commit).pointer_path(commit)
    }

    /// The file whose contents have the tag `etag`, once it is complete.
    pub(crate) fn blob(&self, etag: &str) -> PathBuf {
        self.blobs.join(etag)
    }

    /// The same file while it is downloaded. The name is ours, so that no other client continues it.
    pub(crate) fn unfinished(&self, etag: &str) -> PathBuf {
        self.blobs.join(format!("{etag}.latentd.incomplete"))
    }

    /// Links `file` of a commit to the contents with the tag `etag`.
    ///
    /// # Errors
    /// The cache cannot be written to.
    pub(crate) fn link(&self, commit: &str, file: &str, etag: &str) -> io::Result<()> {
        let path = self.snapshot(commit).join(file);
        if path.exists() {
            return Ok(());
        }
        let folder = path.parent().unwrap_or(&path);
        std::fs::create_dir_all(folder)?;
        // The link is dangling: its blob was deleted.
        if path.is_symlink() {
            std::fs::remove_file(&path)?;
        }
        link(&self.blob(etag), etag, &path, Path::new(file).components().count())
    }

    /// Records which commit `revision` is.
    ///
    /// # Errors
    /// The cache cannot be written to.
    pub(crate) fn point(&self, revision: &str, commit: &str) -> io::Result<()> {
        if is_commit(revision) { Ok(()) } else { self.at(revision).create_ref(commit) }
    }

    fn at(&self, revision: &str) -> CacheRepo {
        let repo = Repo::with_revision(self.id.clone(), RepoType::Model, revision.into());
        Cache::new(self.root.clone()).repo(repo)
    }

    /// Takes the lock that Python's client holds while it downloads the contents with the tag `etag`; `None` if it is
    /// held.
    ///
    /// # Errors
    /// The cache cannot be written to.
    pub(crate) fn lock_blob(&self, etag: &str) -> io::Result<Option<File>> {
        let path = self.locks.join(format!("{etag}.lock"));
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => Ok(None),
            // On a file system without locks no other process can hold one.
            Ok(()) | Err(TryLockError::Error(_)) => Ok(Some(file)),
        }
    }

    /// Waits until no other process downloads the repository, and takes its lock.
    ///
    /// # Errors
    /// The cache cannot be written to, or the other process's download stalls.
    pub(crate) fn lock(&self) -> Result<DownloadLock, Error> {
        let unwritable = |err| self.unwritable(&err);
        std::fs::create_dir_all(&self.locks).map_err(unwritable)?;
        std::fs::create_dir_all(&self.blobs).map_err(unwritable)?;
        let path = self.locks.join(LOCK);
        let open = || OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        let mut file = open().map_err(unwritable)?;
        self.wait(|| match file.try_lock() {
            Err(TryLockError::WouldBlock) => Attempt::Wait(std::fs::read_to_string(&path).unwrap_or_default()),
            // On a file system without locks no other process can hold one.
            Ok(()) | Err(TryLockError::Error(_)) => Attempt::Done(()),
        })?;
        let host = sysinfo::System::host_name().unwrap_or_else(|| "this machine".into());
        // Waiting processes show this text.
        let _ = file.set_len(0).and_then(|()| write!(file, "process {} on {host}", std::process::id()));
        Ok(DownloadLock { _file: file })
    }

    /// Runs `download` once no other program, such as Python's client, holds the lock of one of the files. `download`
    /// returns `None` if it met such a lock, and is then tried again.
    ///
    /// # Errors
    /// The other program's download stalls.
    pub(crate) fn after_others<T>(&self, mut download: impl FnMut() -> Option<T>) -> Result<T, Error> {
        self.wait(|| match self.other_lock() {
            Some(lock) => Attempt::Wait(format!("another program, which holds `{}`", lock.display())),
            None => download().map_or_else(|| Attempt::Wait("another program".into()), Attempt::Done),
        })
    }

    /// The path of a single file's lock that is held, if any.
    fn other_lock(&self) -> Option<PathBuf> {
        let entries = std::fs::read_dir(&self.locks).ok()?.flatten().map(|entry| entry.path());
        let mut files = entries.filter(|path| path.file_name().is_some_and(|name| name != LOCK));
        files.find(|path| {
            let locked = File::open(path).map(|file| file.try_lock());
            matches!(locked, Ok(Err(TryLockError::WouldBlock)))
        })
    }

    /// Repeats `attempt` until it is done, and reports once which process it waits for.
    fn wait<T>(&self, mut attempt: impl FnMut() -> Attempt<T>) -> Result<T, Error> {
        let (mut told, mut seen, mut since) = (false, self.arrived(), Instant::now());
        loop {
            let who = match attempt() {
                Attempt::Done(value) => return Ok(value),
                Attempt::Wait(who) if who.is_empty() => "another process".into(),
                Attempt::Wait(who) => who,
            };
            if !told {
                say(&format!("`{}` is being downloaded by {who}: waiting for it", self.id));
                told = true;
            }
            let now = self.arrived();
            if now != seen {
                (seen, since) = (now, Instant::now());
            } else if since.elapsed() >= self.patience {
                return Err(Error::Hub(format!(
                    "`{}` is being downloaded by {who}, and for {} seconds nothing has arrived in `{}`: stop that \
                     program, then start again",
                    self.id,
                    self.patience.as_secs(),
                    self.blobs.display(),
                )));
            }
            std::thread::sleep(POLL);
        }
    }

    /// Sizes and times of the repository's files, complete and unfinished. The value changes when bytes arrive.
    fn arrived(&self) -> Vec<(PathBuf, u64, Option<SystemTime>)> {
        let entries = std::fs::read_dir(&self.blobs).into_iter().flatten().flatten();
        let files = entries.filter_map(|entry| {
            let file = entry.metadata().ok()?;
            Some((entry.path(), file.len(), file.modified().ok()))
        });
        let mut files: Vec<_> = files.collect();
        files.sort();
        files
    }

    /// The error of a cache that cannot be written to.
    pub(crate) fn unwritable(&self, err: &io::Error) -> Error {
        let place = self.root.display();
        let set = VARIABLES.into_iter().find(|name| std::env::var_os(name).is_some());
        Error::Hub(match set {
            Some(name) => {
                format!(
                    "cannot write to the Hub's cache `{place}`, where {name} puts it: {err}. Set {name} to a folder \
                         that can be written to"
                )
            }
            None => format!(
                "cannot write to the Hub's cache `{place}`: {err}. Set HF_HOME to a folder that can be written to"
            ),
        })
    }

    /// The folder of all repositories.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }
}

/// Whether a revision is a commit hash.
fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether `name`, sent by the Hub, stays inside the folder that it is joined to.
pub(crate) fn stays_inside(name: &str) -> bool {
    !name.is_empty() && Path::new(name).components().all(|part| matches!(part, Component::Normal(_)))
}

/// Creates a relative link at `path`, so that the cache can be moved. `path` has `parts` components below the snapshot.
#[cfg(unix)]
fn link(_blob: &Path, etag: &str, path: &Path, parts: usize) -> io::Result<()> {
    let up = "../".repeat(parts + 1);
    std::os::unix::fs::symlink(format!("{up}blobs/{etag}"), path)
}

/// Creates a hard link, or a copy: symbolic links need administrator rights on Windows.
#[cfg(not(unix))]
fn link(blob: &Path, _etag: &str, path: &Path, _parts: usize) -> io::Result<()> {
    std::fs::hard_link(blob, path).or_else(|_| std::fs::copy(blob, path).map(drop))
}

/// Result of one attempt at something that another process may hold.
enum Attempt<T> {
    Done(T),
    /// The holder to wait for.
    Wait(String),
}

/// Writes to the server's log if there is one, else to the terminal.
fn say(message: &str) {
    if tracing::dispatcher::has_been_set() {
        tracing::warn!("{message}");
    } else {
        eprintln!("{message}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(patience: Duration) -> (tempfile::TempDir, HubCache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = HubCache { patience, ..HubCache::new("owner/model", folder.path().join("hub")) };
        (folder, cache)
    }

    #[test]
    fn who_stands_still_is_not_waited_for() {
        let (_folder, cache) = cache(Duration::ZERO);
        let held = cache.lock().unwrap();
        let message = cache.lock().map(|_| ()).unwrap_err().to_string();
        let expected = format!("`owner/model` is being downloaded by process {} on ", std::process::id());
        assert!(message.starts_with(&expected) && message.contains("nothing has arrived"), "{message}");
        drop(held);
        assert!(cache.lock().is_ok(), "who has ended holds nothing");
    }

    #[test]
    fn a_file_s_lock_of_another_program_is_seen() {
        let (_folder, cache) = cache(Duration::ZERO);
        let _lock = cache.lock().unwrap();
        let file = File::create(cache.locks.join("etag.lock")).unwrap();
        file.lock().unwrap();
        let message = cache.after_others(|| Some(())).unwrap_err().to_string();
        assert!(message.contains("another program, which holds `") && message.contains("etag.lock"), "{message}");
        file.unlock().unwrap();
        assert!(cache.after_others(|| Some(())).is_ok());
    }

    #[test]
    fn bytes_that_arrive_are_seen() {
        let (_folder, cache) = cache(PATIENCE);
        let _lock = cache.lock().unwrap();
        let before = cache.arrived();
        std::fs::write(cache.blobs.join("etag.incomplete"), "half").unwrap();
        let half = cache.arrived();
        std::fs::write(cache.blobs.join("etag.incomplete"), "half and more").unwrap();
        assert!(before != half && half != cache.arrived());
    }

    #[test]
    fn a_cache_that_cannot_be_written_to_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let message = HubCache::new("owner/model", file.clone()).lock().map(|_| ()).unwrap_err().to_string();
        assert!(message.contains(&file.display().to_string()) && message.contains("Set HF_HOME to"), "{message}");
    }
}
