//! Paths of output files.

use std::path::{Path, PathBuf};

use crate::error::Error;
use omni::check_writable;

/// Checks that a file can be written at `path`. Errors name `flag`.
pub fn check_place(flag: &str, path: &Path) -> Result<(), Error> {
    if path.is_dir() {
        return Err(Error::Flag(format!("`--{flag}`: `{}` is a folder", path.display())));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        return Err(Error::Flag(format!("`--{flag}`: there is no folder `{}`", folder.display())));
    }
    check_writable(path)
        .map_err(|err| Error::Flag(format!("`--{flag}`: `{}` cannot be written: {err}", path.display())))
}

/// Path of the `i`-th output: `fox.png`, `fox-2.png`, `fox-3.png`, …
pub fn numbered(output: &Path, i: usize) -> PathBuf {
    if i == 0 {
        return output.to_owned();
    }
    let stem = output.file_stem().unwrap_or_default().to_string_lossy();
    let ending = output.extension().unwrap_or_default().to_string_lossy();
    output.with_file_name(format!("{stem}-{}.{ending}", i + 1))
}
