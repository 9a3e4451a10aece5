//! `--images`: writes every picture to a folder.

use std::path::{Path, PathBuf};

use diffusion::RgbImage;
use latentd::Error;
use omni::save_image;

/// Path of the `i`th prompt's picture in the trial `name`: `FOLDER/28-steps/defaults/03.png`.
pub(super) fn path(folder: &Path, i: usize, steps: usize, name: &str) -> PathBuf {
    folder.join(format!("{steps}-steps")).join(file_name(name)).join(format!("{i:02}.png"))
}

/// Converts a name to a folder name: its words, joined by dashes.
fn file_name(name: &str) -> String {
    let words = name.split(|c: char| !(c.is_alphanumeric() || c == '.')).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-")
}

/// Writes the picture as a PNG, and creates missing folders.
pub(super) fn save(image: &RgbImage, path: &Path) -> Result<(), Error> {
    if let Some(folder) = path.parent() {
        let failed = |source| Error::File { action: "write", path: folder.display().to_string(), source };
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    Ok(save_image(image, path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_becomes_a_folder() {
        let path = path(Path::new("out"), 3, 28, "DBCache F2/W8, R 0.12");
        assert_eq!(path, Path::new("out/28-steps/DBCache-F2-W8-R-0.12/03.png"));
    }

    #[test]
    fn a_picture_is_written_where_no_folder_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = path(folder.path(), 0, 4, "a");
        let size = diffusion::ImageSize { width: 2, height: 1 };
        save(&RgbImage { size, pixels: vec![1, 2, 3, 4, 5, 6] }, &path).unwrap();
        assert_eq!(image::open(path).unwrap().into_rgb8().into_raw(), [1, 2, 3, 4, 5, 6]);
    }
}
