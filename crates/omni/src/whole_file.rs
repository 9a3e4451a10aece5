//! Atomic file writes.
//!
//! A file is written under a temporary name beside its target and then renamed. A full disk, or the end of the program,
//! leaves the previous file in place.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile};

/// Writes `bytes` to `path` atomically. Follows links. A target that is not a regular file, e.g. a pipe, is written
/// directly.
///
/// # Errors
/// The operating system's reason. `path` is then unchanged.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let place = led_to(path);
    let before = fs::metadata(&place).ok();
    if before.as_ref().is_some_and(|before| !before.is_file()) {
        return fs::write(&place, bytes);
    }
    let mut file = beside(&place)?;
    file.write_all(bytes).map_err(unnamed)?;
    if let Some(before) = before {
        file.as_file().set_permissions(before.permissions())?;
    }
    // Some file systems report a full disk only here.
    file.as_file().sync_data()?;
    file.persist(&place).map_err(|err| err.error)?;
    Ok(())
}

/// Checks that [`write_whole`] could write to `path` now. Leaves no file behind.
///
/// # Errors
/// The operating system's reason.
pub fn check_writable(path: &Path) -> io::Result<()> {
    let place = led_to(path);
    // For example, a name that is too long.
    if let Some(err) = fs::symlink_metadata(&place).err().filter(|err| err.kind() != io::ErrorKind::NotFound) {
        return Err(err);
    }
    if place.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if place.exists() && !place.is_file() {
        return Ok(());
    }
    beside(&place).map(drop)
}

/// The target of a link, even if it does not exist yet; any other path unchanged.
fn led_to(path: &Path) -> PathBuf {
    let next = || Some(path.parent()?.join(fs::read_link(path).ok()?));
    fs::canonicalize(path).ok().or_else(next).unwrap_or_else(|| path.to_owned())
}

/// An empty temporary file in the folder of `place`, deleted on drop.
fn beside(place: &Path) -> io::Result<NamedTempFile> {
    let folder = place.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.map_or_else(|| PathBuf::from("."), Path::to_owned);
    let mut builder = Builder::new();
    let builder = builder.prefix(".latentd-").suffix(".tmp");
    #[cfg(unix)]
    let builder = {
        use std::os::unix::fs::PermissionsExt;
        // The mode of any new file; the umask applies.
        builder.permissions(fs::Permissions::from_mode(0o666))
    };
    builder.tempfile_in(folder).map_err(unnamed)
}

/// The same error without the temporary file's name, which means nothing to the user.
fn unnamed(err: io::Error) -> io::Error {
    if err.raw_os_error().is_some() { err } else { err.kind().into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = entries.collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_written_over_and_nothing_stays_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        check_writable(&path).unwrap();
        assert_eq!(names(folder.path()), [""; 0]);
        for bytes in [&b"first"[..], b"second"] {
            write_whole(&path, bytes).unwrap();
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
        assert_eq!(names(folder.path()), ["a.png"]);
    }

    #[test]
    fn a_place_that_cannot_be_written_is_told() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(check_writable(folder.path()).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        let nowhere = folder.path().join("no/such/a.png");
        assert_eq!(check_writable(&nowhere).unwrap_err().kind(), io::ErrorKind::NotFound);
        for err in [check_writable(&nowhere), write_whole(&nowhere, b"x")].map(Result::unwrap_err) {
            assert!(!err.to_string().contains(".latentd-"), "{err}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_nothing_is_filled_and_a_name_that_is_too_long_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link.png");
        std::os::unix::fs::symlink("a.png", &link).unwrap();
        write_whole(&link, b"x").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(folder.path().join("a.png")).unwrap(), b"x");
        assert!(check_writable(&folder.path().join("a".repeat(300))).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn modes_and_links_stay() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let (file, new, link) = ["file", "new", "link"].map(|name| folder.path().join(name)).into();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        fs::write(&file, "old").unwrap();
        let of_any_new_file = mode(&file);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        symlink(&file, &link).unwrap();
        write_whole(&link, b"new").unwrap();
        write_whole(&new, b"new").unwrap();
        assert!(link.is_symlink());
        assert_eq!((fs::read(&file).unwrap(), mode(&file)), (b"new".to_vec(), 0o600));
        assert_eq!(mode(&new), of_any_new_file);
    }
}
