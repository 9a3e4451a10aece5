//! Finished pictures behind URLs. For an hour, the URL alone gives access to the picture, without a key.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::body::Bytes;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::api::error::ApiError;
use pictures::OutputFormat;

/// Lifetime of a URL, in seconds.
const LIFETIME: u64 = 60 * 60;

/// Files in memory; the oldest are dropped first. Their URLs are signed with a key of this process.
#[derive(Debug)]
pub(crate) struct Files {
    key: [u8; 32],
    max_bytes: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    files: HashMap<String, File>,
    /// Ids of the files not fetched so far.
    unfetched: HashSet<String>,
    /// Ids, the oldest first.
    order: VecDeque<String>,
    bytes: usize,
}

/// The file of a picture.
#[derive(Clone, Debug)]
pub(crate) struct File {
    pub(crate) bytes: Bytes,
    pub(crate) format: OutputFormat,
    /// Time at which its URL expires, in seconds since 1970.
    pub(crate) expires: u64,
}

impl Files {
    /// An empty store of at most `max_bytes`. A larger file is still stored, as the only one.
    pub(crate) fn new(max_bytes: usize) -> Self {
        Files { key: rand::random(), max_bytes, kept: Mutex::default() }
    }

    /// Stores a file at time `now`. Returns the path and query of its URL.
    pub(crate) fn put(&self, bytes: Bytes, format: OutputFormat, now: u64) -> String {
        let (id, expires) = (format!("{:032x}", rand::random::<u128>()), now + LIFETIME);
        let signature = URL_SAFE_NO_PAD.encode(self.signed(&id, expires).finalize().into_bytes());
        let path = format!("/v1/images/files/{id}?expires={expires}&signature={signature}");
        self.kept().put(id, File { bytes, format, expires }, now, self.max_bytes);
        path
    }

    /// Whether the file behind this URL can still be fetched.
    pub(crate) fn has(&self, url: &str, now: u64) -> bool {
        let id = id_of(url);
        self.kept().files.get(id).is_some_and(|file| file.expires > now)
    }

    /// Removes the file behind this URL.
    pub(crate) fn forget(&self, url: &str) {
        let id = id_of(url);
        let mut kept = self.kept();
        kept.remove(id);
        kept.order.retain(|known| known != id);
    }

    /// Whether every file whose URL is still valid has been fetched.
    pub(crate) fn are_all_fetched(&self, now: u64) -> bool {
        let kept = self.kept();
        kept.unfetched.iter().all(|id| kept.files.get(id).is_none_or(|file| file.expires <= now))
    }

    /// Removes files whose URL has expired.
    pub(crate) fn expire(&self, now: u64) {
        self.kept().make_way(0, now, self.max_bytes);
    }

    /// Returns the file of a URL with this id and query.
    ///
    /// # Errors
    /// The signature is invalid, the URL has expired, or its file was dropped.
    pub(crate) fn get(&self, id: &str, expires: u64, signature: &str, now: u64) -> Result<File, ApiError> {
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap_or_default();
        self.signed(id, expires).verify_slice(&signature).map_err(|_| ApiError::InvalidSignature)?;
        if expires <= now {
            return Err(ApiError::UrlExpired { seconds: now - expires });
        }
        let mut kept = self.kept();
        kept.unfetched.remove(id);
        kept.files.get(id).cloned().ok_or(ApiError::FileNotFound)
    }

    fn signed(&self, id: &str, expires: u64) -> Hmac<Sha256> {
        let mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("a key may have any length. This is a bug.");
        mac.chain_update(format!("{id}:{expires}"))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn put(&mut self, id: String, file: File, now: u64, max_bytes: usize) {
        self.make_way(file.bytes.len(), now, max_bytes);
        self.bytes += file.bytes.len();
        self.order.push_back(id.clone());
        self.unfetched.insert(id.clone());
        self.files.insert(id, file);
    }

    /// Removes expired files, and then the oldest until there is room for `bytes` more.
    fn make_way(&mut self, bytes: usize, now: u64, max_bytes: usize) {
        while let Some(oldest) = self.order.front() {
            let has_expired = self.files.get(oldest).is_none_or(|oldest| oldest.expires <= now);
            if !has_expired && self.bytes + bytes <= max_bytes {
                break;
            }
            if let Some(oldest) = self.order.pop_front() {
                self.remove(&oldest);
            }
        }
    }

    fn remove(&mut self, id: &str) {
        self.unfetched.remove(id);
        let file = self.files.remove(id);
        self.bytes -= file.map_or(0, |file| file.bytes.len());
    }
}

/// The id in a URL or path of this store.
fn id_of(url: &str) -> &str {
    let file = url.rsplit_once('/').map_or(url, |(_, file)| file);
    file.split('?').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn put(files: &Files, length: usize, now: u64) -> (String, u64, String) {
        let path = files.put(vec![7; length].into(), OutputFormat::Png, now);
        let (id, query) = path.strip_prefix("/v1/images/files/").unwrap().split_once("?expires=").unwrap();
        let (expires, signature) = query.split_once("&signature=").unwrap();
        (id.into(), expires.parse().unwrap(), signature.into())
    }

    /// Length of the file, or the error.
    fn get(files: &Files, (id, expires, signature): &(String, u64, String), now: u64) -> Result<usize, String> {
        let file = files.get(id, *expires, signature, now);
        file.map(|file| file.bytes.len()).map_err(|err| format!("{err:?}"))
    }

    #[test]
    fn a_url_is_good_for_an_hour() {
        let files = Files::new(1000);
        let url = put(&files, 10, NOW);
        assert_eq!(get(&files, &url, NOW + LIFETIME - 1), Ok(10));
        assert_eq!(get(&files, &url, NOW + LIFETIME + 4), Err("UrlExpired { seconds: 4 }".into()));
    }

    #[test]
    fn a_file_is_waited_for_until_it_is_fetched() {
        let files = Files::new(100);
        assert!(files.are_all_fetched(NOW));
        let url = put(&files, 10, NOW);
        assert_eq!([0, LIFETIME - 1, LIFETIME].map(|after| files.are_all_fetched(NOW + after)), [false, false, true]);
        get(&files, &url, NOW).unwrap();
        assert!(files.are_all_fetched(NOW));
        let (id, ..) = put(&files, 10, NOW);
        files.forget(&id);
        assert!(files.are_all_fetched(NOW));
    }

    #[test]
    fn nothing_of_a_url_can_be_changed() {
        let files = Files::new(1000);
        let (url, other) = (put(&files, 10, NOW), put(&files, 10, NOW + 1));
        let (id, expires, signature) = url.clone();
        for changed in [
            (other.0.clone(), expires, signature.clone()),
            (id.clone(), expires + 3600, signature.clone()),
            (id.clone(), expires, other.2.clone()),
            (id.clone(), expires, signature[..42].into()),
            (id, expires, String::new()),
        ] {
            assert_eq!(get(&files, &changed, NOW), Err("InvalidSignature".into()), "{changed:?}");
        }
        assert_eq!(get(&Files::new(1000), &url, NOW), Err("InvalidSignature".into()), "of another process");
    }

    #[test]
    fn the_oldest_makes_way() {
        let files = Files::new(100);
        let urls: Vec<_> = (0..4).map(|i| put(&files, 30, NOW + i)).collect();
        let found: Vec<_> = urls.iter().map(|url| get(&files, url, NOW + 9).is_ok()).collect();
        assert_eq!(found, [false, true, true, true]);
        assert_eq!(get(&files, &urls[0], NOW + 9), Err("FileNotFound".into()));
        let large = put(&files, 500, NOW + 10);
        assert_eq!(get(&files, &large, NOW + 10), Ok(500), "one file is kept whatever its size");
        assert_eq!(files.kept().files.len(), 1);
    }

    /// Bytes, and the number of files by both counts.
    fn size(files: &Files) -> (usize, usize, usize) {
        let kept = files.kept();
        (kept.bytes, kept.order.len(), kept.files.len())
    }

    #[test]
    fn what_has_expired_is_let_go_by_the_next_file_or_by_time() {
        let files = Files::new(1000);
        put(&files, 10, NOW);
        put(&files, 20, NOW + LIFETIME);
        assert_eq!(size(&files), (20, 1, 1));
        files.expire(NOW + 2 * LIFETIME - 1);
        assert_eq!(size(&files), (20, 1, 1));
        files.expire(NOW + 2 * LIFETIME);
        assert_eq!(size(&files), (0, 0, 0));
    }

    #[test]
    fn a_file_is_told_and_forgotten_by_its_url() {
        let files = Files::new(1000);
        let urls = [10, 20].map(|bytes| {
            "https://images.example.com/latentd".to_owned() + &files.put(vec![7; bytes].into(), OutputFormat::Png, NOW)
        });
        assert!(files.has(&urls[0], NOW) && !files.has(&urls[0], NOW + LIFETIME));
        files.forget(&urls[0]);
        assert!(!files.has(&urls[0], NOW) && files.has(&urls[1], NOW));
        assert_eq!(size(&files), (20, 1, 1));
        files.forget(&urls[0]);
        assert_eq!(size(&files), (20, 1, 1), "twice is once");
    }
}
