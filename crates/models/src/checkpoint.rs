//! A diffusers checkpoint: a folder, or the files built into the program.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::LoadError;
use crate::weights::{Precision, Shard, Weights};

/// Where the files of a checkpoint in the diffusers layout are.
#[derive(Clone, Debug)]
pub enum Checkpoint {
    /// A folder on disk.
    Dir(PathBuf),
    /// Path and bytes of every file, in memory.
    Embedded(Vec<(&'static str, &'static [u8])>),
}

/// `model_index.json`: the class, and whether there is a processor of pictures.
#[derive(Deserialize)]
struct ModelIndex {
    #[serde(rename = "_class_name")]
    class_name: String,
    processor: Option<[Option<String>; 2]>,
}

/// `*.safetensors.index.json` of a sharded component.
#[derive(Deserialize)]
struct ShardIndex {
    weight_map: HashMap<String, String>,
}

impl Checkpoint {
    /// Opens a folder after checking, without reading weights, that it is a whole checkpoint.
    ///
    /// # Errors
    /// A missing folder or file, a half-downloaded shard.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, LoadError> {
        let folder = folder.into();
        if !folder.is_dir() {
            return Err(LoadError::NoFolder(folder.display().to_string()));
        }
        let checkpoint = Checkpoint::Dir(folder);
        checkpoint.check()?;
        Ok(checkpoint)
    }

    /// The pipeline class of `model_index.json`.
    ///
    /// # Errors
    /// The file is missing or not understood.
    pub fn class(&self) -> Result<String, LoadError> {
        Ok(self.json::<ModelIndex>("model_index.json")?.class_name)
    }

    /// The bytes of a small file.
    ///
    /// # Errors
    /// The file is missing or unreadable.
    pub fn read(&self, file: &str) -> Result<Cow<'static, [u8]>, LoadError> {
        match self {
            Checkpoint::Dir(folder) => match std::fs::read(folder.join(file)) {
                Ok(bytes) => Ok(bytes.into()),
                Err(err) if err.kind() == std::io::ErrorKind::NotFound => Err(self.missing(file)),
                Err(source) => Err(LoadError::Io { file: file.into(), source }),
            },
            Checkpoint::Embedded(files) => match files.iter().find(|(path, _)| *path == file) {
                Some((_, bytes)) => Ok((*bytes).into()),
                None => Err(self.missing(file)),
            },
        }
    }

    /// Whether the checkpoint has `file`.
    pub fn has(&self, file: &str) -> bool {
        match self {
            Checkpoint::Dir(folder) => folder.join(file).is_file(),
            Checkpoint::Embedded(files) => files.iter().any(|(path, _)| *path == file),
        }
    }

    /// A JSON file as `T`.
    ///
    /// # Errors
    /// The file is missing or says something else.
    pub fn json<T: DeserializeOwned>(&self, file: &str) -> Result<T, LoadError> {
        serde_json::from_slice(&self.read(file)?).map_err(|source| LoadError::Json { file: file.into(), source })
    }

    /// The tensors of `component` (a folder of the layout), memory-mapped, to be loaded with `precision`.
    ///
    /// # Errors
    /// No weights, a shard missing or incomplete.
    pub fn weights(&self, component: &str, precision: Precision) -> Result<Weights, LoadError> {
        let (files, named) = self.weight_files(component)?;
        let shards = files.iter().map(|file| self.shard(file)).collect::<Result<_, _>>()?;
        Ok(Weights::new(shards, named, precision))
    }

    /// The safetensors files of a component, and the file that names them.
    fn weight_files(&self, component: &str) -> Result<(Vec<String>, String), LoadError> {
        for stem in ["diffusion_pytorch_model", "model"] {
            let index = format!("{component}/{stem}.safetensors.index.json");
            if self.has(&index) {
                let shards: BTreeSet<String> = self.json::<ShardIndex>(&index)?.weight_map.into_values().collect();
                return Ok((shards.into_iter().map(|shard| format!("{component}/{shard}")).collect(), index));
            }
            let single = format!("{component}/{stem}.safetensors");
            if self.has(&single) {
                return Ok((vec![single.clone()], single));
            }
        }
        Err(self.missing(&format!("{component}/*.safetensors")))
    }

    fn shard(&self, file: &str) -> Result<Shard, LoadError> {
        match self {
            Checkpoint::Dir(folder) => {
                let path = folder.join(file);
                match path.is_file() {
                    true => Shard::map(file, &path),
                    false => Err(self.missing(file)),
                }
            }
            Checkpoint::Embedded(files) => match files.iter().find(|(path, _)| *path == file) {
                Some((_, bytes)) => Shard::embedded(file, bytes),
                None => Err(self.missing(file)),
            },
        }
    }

    /// Opens every shard's header: seconds are better spent here than after loading half of it.
    fn check(&self) -> Result<(), LoadError> {
        let index: ModelIndex = self.json("model_index.json")?;
        let processors = ["processor/preprocessor_config.json", "processor/processor_config.json"];
        let has_processor = matches!(index.processor, Some([Some(_), Some(_)]));
        if has_processor && !processors.iter().any(|file| self.has(file)) {
            return Err(self.missing(processors[0]));
        }
        for component in ["text_encoder", "transformer", "vae"] {
            for file in self.weight_files(component)?.0 {
                self.shard(&file)?;
            }
        }
        Ok(())
    }

    fn missing(&self, file: &str) -> LoadError {
        let folder = match self {
            Checkpoint::Dir(folder) => folder.display().to_string(),
            Checkpoint::Embedded(_) => "the built-in model".into(),
        };
        LoadError::MissingFile { file: file.into(), folder }
    }
}
