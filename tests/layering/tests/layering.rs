//! Tests of the architecture's dependency rules.
//!
//! `cargo tree` runs for this machine's target, without a network. Dependencies of other systems only are not seen.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, reason = "a test binary")]

use std::collections::BTreeSet;
use std::process::Command;

use layering::{circles, crates, imports};

/// The crates of this workspace.
const OURS: [&str; 13] = [
    "bench",
    "cache",
    "demo",
    "diffusion",
    "gpu",
    "http_client",
    "kernels",
    "latentd",
    "models",
    "omni",
    "pictures",
    "scheduler",
    "server",
];

/// The dependencies of `package` by `cargo tree`, without the package itself.
fn tree(package: &str, more: &[&str]) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--edges", "normal", "--prefix", "none", "--format", "{p}", "-p", package])
        .args(more)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    // A line reads `serde v1.0.229 (proc-macro)`.
    let names = lines.lines().filter_map(|line| line.split(' ').next()).filter(|name| !name.is_empty());
    names.filter(|name| *name != package).map(str::to_owned).collect()
}

/// Checks that `package` depends, directly or not, only on `may_reach` of our crates and on none of `must_not_reach`.
#[track_caller]
fn check(package: &str, may_reach: &[&str], must_not_reach: &[&str]) {
    let reached = tree(package, &[]);
    for name in OURS.iter().filter(|name| reached.contains(**name)) {
        assert!(may_reach.contains(name), "`{package}` must not depend on our `{name}`");
    }
    for name in must_not_reach {
        assert!(!reached.contains(*name), "`{package}` must not depend on `{name}`");
    }
}

#[test]
fn the_list_of_our_crates_is_whole() {
    let folders = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../../crates")).unwrap();
    let folders: BTreeSet<_> = folders.map(|folder| folder.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(folders, OURS.map(str::to_owned).into());
}

#[test]
fn cache_decides_from_numbers_alone() {
    let direct = tree("cache", &["--depth", "1"]);
    // The crate parses its own settings, which are JSON on the command line, in files and in requests.
    let settings = ["serde", "serde_json", "serde_path_to_error", "strsim", "thiserror"];
    assert!(direct.is_subset(&settings.map(str::to_owned).into()), "{direct:?}");
}

#[test]
fn the_vocabulary_knows_no_tensor_and_no_task() {
    check("diffusion", &["cache"], &["candle-core", "tokio", "axum"]);
}

#[test]
fn a_gpu_is_opened_by_what_knows_nothing_of_ours() {
    check("gpu", &[], &["candle-nn", "tokio", "axum"]);
}

#[test]
fn the_kernels_know_tensors_and_nothing_of_ours() {
    check("kernels", &["gpu"], &["tokio", "axum"]);
}

#[test]
fn the_models_know_neither_the_scheduler_nor_tasks_nor_http() {
    check("models", &["cache", "diffusion", "gpu", "kernels"], &["tokio", "axum", "hyper"]);
}

#[test]
fn the_scheduler_knows_neither_tensors_nor_http() {
    check("scheduler", &["cache", "diffusion"], &["candle-core", "candle-nn", "axum", "hyper"]);
}

#[test]
fn picture_files_know_neither_tensors_nor_http() {
    check("pictures", &["cache", "diffusion"], &["candle-core", "tokio", "axum"]);
}

#[test]
fn the_server_knows_no_tensor_and_no_model() {
    check(
        "server",
        &["cache", "diffusion", "http_client", "pictures", "scheduler"],
        &["candle-core", "candle-nn", "safetensors", "tokenizers"],
    );
}

#[test]
fn the_library_knows_no_flag_no_progress_bar_and_no_server() {
    let below = ["cache", "demo", "diffusion", "gpu", "http_client", "kernels", "models", "pictures"];
    check("omni", &below, &["clap", "axum", "indicatif", "scheduler", "server"]);
}

#[test]
fn the_product_carries_no_plots() {
    check("latentd", &OURS.map(|name| if name == "bench" { "" } else { name }), &["plotters"]);
}

#[test]
fn the_built_in_model_is_bytes() {
    check("demo", &[], &["candle-core", "tokio", "axum"]);
}

#[test]
fn files_of_a_crate_import_each_other_in_no_circle() {
    for (name, root) in crates().unwrap() {
        let imports = imports(&root).unwrap();
        assert!(!imports.is_empty(), "{name} was read");
        let circles = circles(&imports);
        assert!(circles.is_empty(), "{name}: {circles:?}");
    }
}

#[test]
fn the_servers_rooms_know_only_those_below_them() {
    let (_, root) = crates().unwrap().into_iter().find(|(name, _)| name == "server").unwrap();
    let imports = imports(&root).unwrap();
    for (room, may_know) in [("api", &["api"][..]), ("uploads", &["api", "uploads"])] {
        let files: Vec<_> = imports.iter().filter(|(file, _)| file.starts_with(room)).collect();
        assert!(files.len() > 10, "{room} was read");
        for (file, targets) in files {
            let above = targets.iter().find(|target| !may_know.iter().any(|room| target.starts_with(room)));
            assert_eq!(above, None, "{} must not know it", file.display());
        }
    }
}

#[test]
fn a_file_is_a_few_screens() {
    let root = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let mut folders = vec![root.join("crates"), root.join("tests")];
    let mut count = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else if entry.extension().is_some_and(|ending| ending == "rs") {
                let lines = std::fs::read_to_string(&entry).unwrap().lines().count();
                assert!(lines <= 400, "{} has {lines} lines", entry.display());
                count += 1;
            }
        }
    }
    assert!(count > 500, "{count} files were read");
}
