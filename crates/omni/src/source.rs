//! The source of a model: built in, a folder, or a repository of the Hub.

use std::path::{Path, PathBuf};

use models::{Checkpoint, LoadError, family_of};

use crate::error::Error;
use crate::hub;
use crate::observer::LoadObserver;

/// The source of a model's checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// The model that is part of the program.
    Builtin,
    /// A folder in the diffusers layout.
    Dir(PathBuf),
    /// A repository of the Hub, `owner/name`.
    Hub {
        /// `owner/name`.
        id: String,
        /// Branch, tag or commit; `main` without one.
        revision: Option<String>,
    },
}

impl ModelSource {
    /// Parses `--model`. Nothing or `builtin` is the built-in model; an existing path, or text that looks like a path,
    /// is a folder; `owner/name` is the Hub.
    pub fn parse(model: Option<&str>, revision: Option<String>) -> Self {
        match model {
            None | Some("builtin") => ModelSource::Builtin,
            Some(model) if is_hub_id(model) && !Path::new(model).exists() => {
                ModelSource::Hub { id: model.into(), revision }
            }
            Some(model) => ModelSource::Dir(model.into()),
        }
    }

    /// The name that the model is served under.
    pub fn id(&self) -> String {
        match self {
            ModelSource::Builtin => "latentd/builtin".into(),
            ModelSource::Dir(folder) => {
                let name = folder.canonicalize().unwrap_or_else(|_| folder.clone());
                name.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned()
            }
            ModelSource::Hub { id, .. } => id.clone(),
        }
    }

    /// Opens the checkpoint: downloads missing files, and checks that it is complete.
    ///
    /// # Errors
    /// The folder or repository does not exist, is incomplete, or is of an unsupported class.
    pub fn open(&self, observer: &dyn LoadObserver) -> Result<Checkpoint, Error> {
        match self {
            ModelSource::Builtin => {
                Ok(Checkpoint::Embedded(demo::FILES.iter().map(|file| (file.path, file.bytes)).collect()))
            }
            ModelSource::Dir(folder) => whole(folder),
            ModelSource::Hub { id, revision } => {
                let folder = hub::snapshot(id, revision.as_deref(), observer)?;
                whole(&folder).map_err(|err| in_cache(err, &folder))
            }
        }
    }
}

/// The checkpoint in `folder`, if it is complete and of a supported class.
fn whole(folder: &Path) -> Result<Checkpoint, Error> {
    // An unsupported class is reported before missing files.
    if folder.is_dir() {
        family_of(&Checkpoint::Dir(folder.into()))?;
    }
    Ok(Checkpoint::open(folder)?)
}

/// Adds the path of a damaged file in the Hub's cache to the error. The file is not downloaded again until it is
/// removed.
fn in_cache(err: Error, folder: &Path) -> Error {
    match &err {
        Error::Load(LoadError::Damaged { file, .. }) => {
            Error::Hub(format!("{err}. Remove `{}`, and it is downloaded when you start again", real(folder, file)))
        }
        _ => err,
    }
}

/// The path of the file after links, where the cache stores it.
fn real(folder: &Path, file: &str) -> String {
    let path = folder.join(file);
    path.canonicalize().unwrap_or(path).display().to_string()
}

/// Whether `model` is `owner/name`: both parts use the Hub's characters, and neither starts with a dot like a path.
fn is_hub_id(model: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || ['-', '_', '.'].contains(&c))
    };
    model.split_once('/').is_some_and(|(owner, name)| part(owner) && part(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_model_argument_means() {
        let parse = |model| ModelSource::parse(model, None);
        assert_eq!(parse(None), ModelSource::Builtin);
        assert_eq!(parse(Some("builtin")), ModelSource::Builtin);
        assert_eq!(parse(Some("Qwen/Qwen-Image")), ModelSource::Hub { id: "Qwen/Qwen-Image".into(), revision: None });
        for folder in ["./model", "/models/qwen", "../a/b", "a/b/c", "folder", "~/x"] {
            assert_eq!(parse(Some(folder)), ModelSource::Dir(folder.into()), "{folder}");
        }
    }
}
