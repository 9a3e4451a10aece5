//! The binary under test, and a folder to run it in.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// The program, built with the profile of this test.
pub fn latentd() -> Command {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let path = BUILT.get_or_init(|| {
        let mut build = Command::new(env!("CARGO"));
        build
            .args(["build", "--quiet", "--offline", "-p", "latentd", "-p", "bench"])
            .args((!cfg!(debug_assertions)).then_some("--release"));
        assert!(build.status().unwrap().success(), "latentd and latentd-bench build");
        // target/<profile>/deps/e2e-…
        let profile = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_owned();
        profile.join("latentd")
    });
    let mut command = Command::new(path);
    command.stdin(Stdio::null()).env_remove("LATENTD_MODEL").env("HF_HUB_OFFLINE", "1");
    command
}

pub fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// An empty folder, removed on drop.
pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}
