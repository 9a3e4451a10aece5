//! Checks that the program accepts every cache configuration in `config/`. The server's settings are tested with its
//! flags.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, reason = "a test binary")]

use std::path::{Path, PathBuf};

use latentd::{CacheBackend, CacheFlags};

fn shipped() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|file| file.extension().is_some_and(|ending| ending == "json")).collect();
    files.sort();
    files
}

#[test]
fn every_cache_configuration_is_accepted() {
    let files = shipped();
    assert!(!files.is_empty());
    for file in files {
        let flags = CacheFlags {
            cache_backend: Some(CacheBackend::CacheDit),
            cache_config: Some(format!("@{}", file.display())),
            ..CacheFlags::default()
        };
        let config = flags.resolve().unwrap_or_else(|err| panic!("{}: {err}", file.display()));
        if file.ends_with("cache_dit.json") {
            assert_eq!(config, Some(cache::CacheConfig::default()), "the guide's defaults, spelled out");
        }
    }
}
