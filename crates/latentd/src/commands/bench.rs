//! `latentd bench`: runs the separate program `latentd-bench`, which is installed beside this one.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use latentd::{CachePlotData, Error};

/// Name of the program.
const PROGRAM: &str = "latentd-bench";

/// Time the stages of a picture; `bench cache` compares step caches, `bench serve` puts load on a server
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(super) struct Bench {
    /// Arguments as in `latentd bench --help`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    arguments: Vec<OsString>,
}

impl Bench {
    pub(super) fn run(self) -> Result<(), Error> {
        Err(replaced_by(Command::new(program()?).args(self.arguments)))
    }
}

/// Path of the program: beside this one, else in the folders of `PATH`.
///
/// # Errors
/// The program is in none of them.
pub(super) fn program() -> Result<PathBuf, Error> {
    let beside = std::env::current_exe().ok().and_then(|own| own.parent().map(Path::to_owned));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = beside.into_iter().chain(std::env::split_paths(&path));
    let name = format!("{PROGRAM}{}", std::env::consts::EXE_SUFFIX);
    folders.find_map(|folder| Some(folder.join(&name)).filter(|file| file.is_file())).ok_or_else(|| {
        Error::Flag(format!(
            "`{PROGRAM}`, which measures and draws, is neither beside this program nor in PATH: build it with \
             `cargo build --release -p bench`"
        ))
    })
}

/// Lets the program draw a plot, and returns its SVG.
///
/// # Errors
/// The program is missing, or fails.
pub(super) fn cache_plot(data: &CachePlotData) -> Result<String, Error> {
    let json = serde_json::to_vec(data).expect("strings and numbers make JSON. This is a bug.");
    let mut command = Command::new(program()?);
    command.arg("cache-plot").stdin(Stdio::piped()).stdout(Stdio::piped());
    let drawn = command.spawn().and_then(|mut child| {
        let stdin = child.stdin.take();
        stdin.expect("it is piped. This is a bug.").write_all(&json)?;
        child.wait_with_output()
    });
    let output = drawn.map_err(|err| failed(err, &command))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(Error::Flag(format!("`--cache-plot`: `{PROGRAM}` failed"))),
    }
}

/// Replaces this process by another program. Returns only on failure, with the reason.
#[cfg(unix)]
fn replaced_by(command: &mut Command) -> Error {
    use std::os::unix::process::CommandExt;

    failed(command.exec(), command)
}

/// Runs another program and exits with its exit code. Returns only on failure, with the reason.
#[cfg(not(unix))]
fn replaced_by(command: &mut Command) -> Error {
    match command.status() {
        Ok(status) => std::process::exit(status.code().unwrap_or(1)),
        Err(err) => failed(err, command),
    }
}

fn failed(source: std::io::Error, command: &Command) -> Error {
    Error::File { action: "run", path: command.get_program().to_string_lossy().into_owned(), source }
}
