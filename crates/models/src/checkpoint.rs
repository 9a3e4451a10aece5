//! A diffusers checkpoint: a folder, or the files built into the program.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::bounds::ConfigFile;
use crate::error::LoadError;
use crate::families::sees_pictures;
use crate::layout::{not_diffusers, single_file};
use crate::shard::Shard;
use crate::tokenizer::Tokenizer;
use crate::weight_files::WeightFiles;
use crate::weights::{Precision, Weights};

/// Where the files of a checkpoint in the diffusers layout are.
#[derive(Clone, Debug)]
pub enum Checkpoint {
    /// A folder on disk.
    Dir(PathBuf),
    /// Path and bytes of every file, in memory.
    Embedded(Vec<(&'static str, &'static [u8])>),
    /// Path and bytes of every file but the weights, which are [made up](Weights::random): to time a model that is not at hand.
    MadeUp(Vec<(&'static str, Cow<'static, [u8]>)>),
}

/// `model_index.json`: the class.
#[derive(Deserialize)]
struct ModelIndex {
    #[serde(rename = "_class_name")]
    class_name: String,
}

/// What a component's `config.json` says of quantized weights, by the names of diffusers and of transformers.
#[derive(Deserialize)]
struct Quantization {
    quantization_config: Option<Quantized>,
    compression_config: Option<Quantized>,
}

#[derive(Deserialize)]
struct Quantized {
    quant_method: Option<String>,
    quant_type: Option<String>,
}

/// The file that makes a folder a checkpoint of a pipeline.
const INDEX: &str = "model_index.json";
/// Most bytes of a Git LFS pointer: a kilobyte, by its specification.
const MAX_LFS_POINTER: u64 = 1024;
/// Most entries of a folder that are looked at to tell what it is.
const MOST_ENTRIES: usize = 1000;

/// `*.safetensors.index.json` of a sharded component.
#[derive(Deserialize)]
struct ShardIndex {
    weight_map: HashMap<String, String>,
}

impl Checkpoint {
    /// Opens a folder after checking, without reading weights, that it is a whole checkpoint: every file that
    /// loading reads is there.
    ///
    /// # Errors
    /// It is something else, or a file lacks, is half downloaded, or holds weights that are not read.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, LoadError> {
        let folder = folder.into();
        let place = folder.display().to_string();
        if folder.is_file() {
            return Err(single_file(&place));
        }
        if !folder.is_dir() {
            return Err(LoadError::NoFolder(place));
        }
        let checkpoint = Checkpoint::Dir(folder);
        checkpoint.require_pipeline()?;
        checkpoint.check()?;
        Ok(checkpoint)
    }

    /// Refuses what is no checkpoint of a pipeline, by what its files make of it.
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

    /// The pipeline class of `model_index.json`.
    ///
    /// # Errors
    /// The file is missing or not understood.
    pub fn class(&self) -> Result<String, LoadError> {
        Ok(self.json::<ModelIndex>(INDEX)?.class_name)
    }

    /// The bytes of a small file.
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

    /// A JSON file as `T`.
    ///
    /// # Errors
    /// The file is missing or says something else.
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

    /// The tensors of `component` (a folder of the layout), memory-mapped, to be loaded with `precision`.
    ///
    /// # Errors
    /// No weights, a shard missing or incomplete.
    pub fn weights(&self, component: &str, precision: Precision) -> Result<Weights, LoadError> {
        if let Checkpoint::MadeUp(_) = self {
            return Ok(Weights::random(precision));
        }
        let (files, named) = self.weight_files(component)?;
        let shards = files.iter().map(|file| self.shard(file)).collect::<Result<_, _>>()?;
        Ok(Weights::new(shards, named, precision))
    }

    /// The float type that the files of `component` keep most of its weights in.
    ///
    /// # Errors
    /// As [`Checkpoint::weights`].
    pub fn stored_dtype(&self, component: &str) -> Result<DType, LoadError> {
        if let Checkpoint::MadeUp(_) = self {
            // As all published ones are.
            return Ok(DType::BF16);
        }
        let weights = self.weights(component, Precision::new(DType::F32, Device::Cpu))?;
        Ok(weights.stored_dtype())
    }

    /// A digest of the tensors of `component`, in hexadecimal: of the names, shapes and first bytes of all.
    ///
    /// # Errors
    /// As [`Checkpoint::weights`].
    pub fn digest(&self, component: &str) -> Result<String, LoadError> {
        Ok(self.weights(component, Precision::new(DType::F32, Device::Cpu))?.digest())
    }

    /// The safetensors files of a component, and the file that names them.
    fn weight_files(&self, component: &str) -> Result<(Vec<String>, String), LoadError> {
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

    /// The names of the files in the folder `component`.
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

    fn shard(&self, file: &str) -> Result<Shard, LoadError> {
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

    /// Every file that loading reads: seconds are better spent here than after loading half of them. Of weights the
    /// headers.
    fn check(&self) -> Result<(), LoadError> {
        let index: ModelIndex = self.json(INDEX)?;
        if sees_pictures(&index.class_name) {
            let processors = ["processor/preprocessor_config.json", "processor/processor_config.json"];
            if !processors.iter().any(|file| self.has(file)) {
                return Err(self.missing(processors[0]));
            }
        }
        self.json::<BTreeMap<String, IgnoredAny>>("scheduler/scheduler_config.json")?;
        for file in Tokenizer::files(self, "tokenizer") {
            if !self.has(&file) {
                return Err(self.missing(&file));
            }
        }
        for component in ["text_encoder", "transformer", "vae"] {
            self.check_quantization(component)?;
            for file in self.weight_files(component)?.0 {
                self.shard(&file)?.check_formats()?;
            }
        }
        Ok(())
    }

    /// Refuses a component whose configuration says that its weights are quantized.
    fn check_quantization(&self, component: &str) -> Result<(), LoadError> {
        let file = format!("{component}/config.json");
        let config: Quantization = self.json(&file)?;
        let Some(quantization) = config.quantization_config.or(config.compression_config) else { return Ok(()) };
        let method = quantization.quant_method.or(quantization.quant_type);
        Err(LoadError::Quantized { file, method: method.unwrap_or_else(|| "quantization_config".into()) })
    }

    fn missing(&self, file: &str) -> LoadError {
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

/// Whether the file is no larger than a Git LFS pointer may be.
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

/// The files in `folder` and in the folders of the next two levels, relative to it: enough to tell what it is.
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
