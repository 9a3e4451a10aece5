//! A diffusers checkpoint: a folder, or files built into the program.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::bounds::ConfigFile;
use crate::error::LoadError;
use crate::layout::not_diffusers;
use crate::precision::Precision;
use crate::shard::Shard;
use crate::weight_files::WeightFiles;
use crate::weights::Weights;

/// Location of the files of a checkpoint in the diffusers layout.
#[derive(Clone, Debug)]
pub enum Checkpoint {
    /// A folder on disk.
    Dir(PathBuf),
    /// Path and bytes of every file, in memory.
    Embedded(Vec<(&'static str, &'static [u8])>),
    /// Path and bytes of every file but the weights, which are [made up](Weights::random). Such a checkpoint times a
    /// model whose weights are not available.
    MadeUp(Vec<(&'static str, Cow<'static, [u8]>)>),
}

/// `model_index.json`, of which only the class is read.
#[derive(Deserialize)]
struct ModelIndex {
    #[serde(rename = "_class_name")]
    class_name: String,
}

/// The class that a configuration file names.
#[derive(Deserialize)]
struct ClassName {
    #[serde(rename = "_class_name")]
    class_name: Option<String>,
}

/// The file that marks a folder as a pipeline's checkpoint.
const INDEX: &str = "model_index.json";
/// Largest size of a Git LFS pointer in bytes, by its specification.
const MAX_LFS_POINTER: u64 = 1024;
/// Most entries read from a folder when its layout is guessed.
const MOST_ENTRIES: usize = 1000;

/// `*.safetensors.index.json` of a sharded component.
#[derive(Deserialize)]
struct ShardIndex {
    weight_map: HashMap<String, String>,
}

impl Checkpoint {
    /// Refuses a folder that is no pipeline's checkpoint; the error says what its files look like.
    ///
    /// # Errors
    /// There is no `model_index.json`.
    pub fn require_pipeline(&self) -> Result<(), LoadError> {
        match self {
            Checkpoint::Dir(folder) if !self.has(INDEX) => {
                Err(not_diffusers(&folder.display().to_string(), &files_below(folder)))
            }
            _ => Ok(()),
        }
    }

    /// Returns the pipeline class that `model_index.json` names.
    ///
    /// # Errors
    /// The file is missing or not understood.
    pub fn class(&self) -> Result<String, LoadError> {
        Ok(self.json::<ModelIndex>(INDEX)?.class_name)
    }

    /// Reads a small file.
    ///
    /// # Errors
    /// The file is missing or unreadable, or a Git LFS pointer.
    pub fn read(&self, file: &str) -> Result<Cow<'static, [u8]>, LoadError> {
        let bytes = match self {
            Checkpoint::Dir(folder) => match std::fs::read(folder.join(file)) {
                Ok(bytes) => bytes.into(),
                Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Err(self.missing(file)),
                Err(source) => return Err(LoadError::Io { file: file.into(), source }),
            },
            Checkpoint::Embedded(files) => match files.iter().find(|(path, _)| *path == file) {
                Some((_, bytes)) => Cow::Borrowed(*bytes),
                None => return Err(self.missing(file)),
            },
            Checkpoint::MadeUp(files) => match files.iter().find(|(path, _)| *path == file) {
                Some((_, bytes)) => bytes.clone(),
                None => return Err(self.missing(file)),
            },
        };
        match is_lfs_pointer(&bytes) {
            true => Err(LoadError::LfsPointer { file: file.into(), folder: self.place() }),
            false => Ok(bytes),
        }
    }

    /// Whether the checkpoint has `file`.
    pub fn has(&self, file: &str) -> bool {
        match self {
            Checkpoint::Dir(folder) => folder.join(file).is_file(),
            Checkpoint::Embedded(files) => files.iter().any(|(path, _)| *path == file),
            Checkpoint::MadeUp(files) => files.iter().any(|(path, _)| *path == file),
        }
    }

    /// Parses a JSON file as `T`.
    ///
    /// # Errors
    /// The file is missing, or is not valid JSON for `T`.
    pub fn json<T: DeserializeOwned>(&self, file: &str) -> Result<T, LoadError> {
        let bytes = self.read(file)?;
        if bytes.trim_ascii().is_empty() {
            return Err(LoadError::Damaged { file: file.into(), reason: "it is empty".into() });
        }
        let mut json = serde_json::Deserializer::from_slice(&bytes);
        let value = serde_path_to_error::deserialize(&mut json).map_err(|err| LoadError::Json {
            file: file.into(),
            key: err.path().to_string(),
            source: err.into_inner(),
        })?;
        let ended = json.end();
        ended.map_err(|source| LoadError::Json { file: file.into(), key: ".".into(), source })?;
        Ok(value)
    }

    /// Refuses a configuration file that names another class than `class`. A file that names no class is accepted.
    ///
    /// # Errors
    /// The file is missing, or names another class.
    pub(crate) fn require_class(&self, file: &ConfigFile<'_>, class: &str) -> Result<(), LoadError> {
        match self.json::<ClassName>(file.0)?.class_name {
            Some(given) if given != class => Err(file.refusal("_class_name", format!("be {class}"), given)),
            _ => Ok(()),
        }
    }

    /// Memory-maps the tensors of `component` (a folder of the layout), to be loaded with `precision`.
    ///
    /// # Errors
    /// There are no weights, or a shard is missing or incomplete.
    pub fn weights(&self, component: &str, precision: Precision) -> Result<Weights, LoadError> {
        if let Checkpoint::MadeUp(_) = self {
            return Ok(Weights::random(precision));
        }
        let (files, named) = self.weight_files(component)?;
        let shards = files.iter().map(|file| self.shard(file)).collect::<Result<_, _>>()?;
        Ok(Weights::new(shards, named, precision))
    }

    /// Returns the float type in which the files of `component` store most of its weights.
    ///
    /// # Errors
    /// The same as [`Checkpoint::weights`].
    pub fn stored_dtype(&self, component: &str) -> Result<DType, LoadError> {
        if let Checkpoint::MadeUp(_) = self {
            // All published checkpoints are stored in bf16.
            return Ok(DType::BF16);
        }
        let weights = self.weights(component, Precision::new(DType::F32, Device::Cpu))?;
        Ok(weights.stored_dtype())
    }

    /// Returns a hexadecimal digest of the names, shapes and first bytes of all tensors of `component`.
    ///
    /// # Errors
    /// The same as [`Checkpoint::weights`].
    pub fn digest(&self, component: &str) -> Result<String, LoadError> {
        Ok(self.weights(component, Precision::new(DType::F32, Device::Cpu))?.digest())
    }

    /// Returns the safetensors files of a component, and the file that lists them.
    pub(crate) fn weight_files(&self, component: &str) -> Result<(Vec<String>, String), LoadError> {
        match WeightFiles::find(component, &self.place(), &self.names_in(component))? {
            WeightFiles::Single(name) => {
                let single = format!("{component}/{name}");
                Ok((vec![single.clone()], single))
            }
            WeightFiles::Sharded(name) => {
                let index = format!("{component}/{name}");
                let shards: BTreeSet<String> = self.json::<ShardIndex>(&index)?.weight_map.into_values().collect();
                let file = ConfigFile(&index);
                file.require(!shards.is_empty(), "weight_map", "name a file for each tensor", &shards)?;
                let shards = shards.into_iter().map(|shard| {
                    let in_folder = !shard.contains(['/', '\\']);
                    file.require(in_folder, "weight_map", "name files beside the index", &shard)?;
                    let path = format!("{component}/{shard}");
                    match self.has(&path) {
                        true => Ok(path),
                        false => {
                            Err(LoadError::MissingShard { index: index.clone(), shard: path, folder: self.place() })
                        }
                    }
                });
                Ok((shards.collect::<Result<_, _>>()?, index.clone()))
            }
        }
    }

    /// Returns the names of the files in the folder `component`.
    fn names_in(&self, component: &str) -> Vec<String> {
        match self {
            Checkpoint::Dir(folder) => file_names(&folder.join(component)),
            Checkpoint::Embedded(files) => {
                let names = files.iter().filter_map(|(path, _)| path.strip_prefix(component)?.strip_prefix('/'));
                names.map(str::to_owned).collect()
            }
            Checkpoint::MadeUp(_) => Vec::new(),
        }
    }

    pub(crate) fn shard(&self, file: &str) -> Result<Shard, LoadError> {
        match self {
            Checkpoint::Dir(folder) => {
                let path = folder.join(file);
                match path.is_file() {
                    true if is_small(&path) => self.read(file).and_then(|_| Shard::map(file, &path)),
                    true => Shard::map(file, &path),
                    false => Err(self.missing(file)),
                }
            }
            Checkpoint::Embedded(files) => match files.iter().find(|(path, _)| *path == file) {
                Some((_, bytes)) => Shard::embedded(file, bytes),
                None => Err(self.missing(file)),
            },
            Checkpoint::MadeUp(_) => Err(self.missing(file)),
        }
    }

    pub(crate) fn missing(&self, file: &str) -> LoadError {
        LoadError::MissingFile { file: file.into(), folder: self.place() }
    }

    fn place(&self) -> String {
        match self {
            Checkpoint::Dir(folder) => folder.display().to_string(),
            Checkpoint::Embedded(_) => "the built-in model".into(),
            Checkpoint::MadeUp(_) => "the made-up model".into(),
        }
    }
}

/// Returns whether the file is small enough to be a Git LFS pointer.
fn is_small(path: &Path) -> bool {
    path.metadata().is_ok_and(|file| file.len() <= MAX_LFS_POINTER)
}

/// <https://github.com/git-lfs/git-lfs/blob/v3.7.0/docs/spec.md>
fn is_lfs_pointer(bytes: &[u8]) -> bool {
    bytes.len() as u64 <= MAX_LFS_POINTER && bytes.starts_with(b"version https://git-lfs.github.com/spec/")
}

fn file_names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let files = entries.filter(|entry| entry.path().is_file());
    let mut names: Vec<_> = files.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Lists the files in `folder` and the next two levels below it, relative to it: enough to tell its layout.
fn files_below(folder: &Path) -> Vec<String> {
    let (mut found, mut folders) = (Vec::new(), vec![(folder.to_owned(), String::new(), 0)]);
    while let Some((folder, prefix, depth)) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten().take(MOST_ENTRIES) {
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            match entry.path() {
                path if path.is_dir() && depth < 2 => folders.push((path, format!("{name}/"), depth + 1)),
                path if path.is_dir() => found.push(format!("{name}/")),
                _ => found.push(name),
            }
        }
    }
    found.sort();
    found
}
