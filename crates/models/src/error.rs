//! Why a checkpoint could not be loaded: each message names the file and what to do.

use candle_core::Shape;

/// Why a checkpoint could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The folder is not there.
    #[error("no such folder: `{0}` (give a folder in the diffusers layout, or a Hub id such as Qwen/Qwen-Image)")]
    NoFolder(String),
    /// A file of the diffusers layout is not there.
    #[error("`{file}` is missing in `{folder}`: not a whole diffusers checkpoint. Download it again, or add the file")]
    MissingFile {
        /// Path inside the folder.
        file: String,
        /// The folder.
        folder: String,
    },
    /// The folder, file or repository is no checkpoint in the diffusers layout.
    #[error("`{place}` is {what}: {hint}")]
    NotDiffusers {
        /// What was given.
        place: String,
        /// What it is.
        what: String,
        /// What to give instead.
        hint: String,
    },
    /// An index names a shard that is not there.
    #[error("`{index}` names the shard `{shard}`, which is missing in `{folder}`. Download it again")]
    MissingShard {
        /// Path of the index inside the folder.
        index: String,
        /// Path of the shard inside the folder.
        shard: String,
        /// The folder.
        folder: String,
    },
    /// A component's weights are in another format than safetensors, or under another name.
    #[error("`{file}`: {hint}")]
    OtherWeights {
        /// Path inside the folder.
        file: String,
        /// What it is and what to do.
        hint: &'static str,
    },
    /// A file that Git has not fetched yet.
    #[error("`{file}` is a Git LFS pointer, not the file itself: run `git lfs pull` in `{folder}`")]
    LfsPointer {
        /// Path inside the folder.
        file: String,
        /// The folder.
        folder: String,
    },
    /// The weights are quantized.
    #[error(
        "`{file}`: the weights are quantized ({method}). f32, f16 and bf16 are read: take the checkpoint that they were \
         made from"
    )]
    Quantized {
        /// The component's configuration, or the file of the weights.
        file: String,
        /// How.
        method: String,
    },
    /// A tensor in a number format that is not read.
    #[error("`{file}`: tensor `{tensor}` is {dtype}. f32, f16 and bf16 are read: convert it")]
    NumberFormat {
        /// The file that holds it.
        file: String,
        /// The tensor's full name.
        tensor: String,
        /// Its format, as safetensors names it.
        dtype: String,
    },
    /// A file could not be read.
    #[error("cannot read `{file}`: {source}")]
    Io {
        /// Path inside the folder.
        file: String,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A JSON file does not say what it should.
    #[error("`{file}`{} not understood: {source}", at(.key))]
    Json {
        /// Path inside the folder.
        file: String,
        /// The key, with those around it; `.` or `?` is the whole file.
        key: String,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A safetensors file is damaged or half downloaded.
    #[error("`{file}` is damaged or incomplete ({reason}): download it again")]
    Damaged {
        /// Path inside the folder.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The checkpoint is of a model that latentd does not know.
    #[error("model_index.json names the class `{class}`; supported: {}", supported.join(", "))]
    UnsupportedClass {
        /// The class that was found.
        class: String,
        /// Those that are built in.
        supported: Vec<&'static str>,
    },
    /// A configuration value that this implementation does not handle.
    #[error("`{file}`: `{key}` must {bound}. Given: {given}")]
    Config {
        /// Path inside the folder.
        file: String,
        /// The key.
        key: &'static str,
        /// What is supported.
        bound: String,
        /// What the file says.
        given: String,
    },
    /// A tensor that the network needs is in none of the component's files.
    #[error("`{file}`: tensor `{tensor}` is missing")]
    MissingTensor {
        /// The component's file, or its index where there are several.
        file: String,
        /// The tensor's full name.
        tensor: String,
    },
    /// The configuration leaves layers out.
    #[error("`{file}`: `{list}` holds more than the {count} layers that the component's config.json names")]
    MoreLayers {
        /// The component's file, or its index where there are several.
        file: String,
        /// The list's full name.
        list: String,
        /// Layers in the configuration.
        count: usize,
    },
    /// A tensor has another shape than the configuration asks for.
    #[error("`{file}`: tensor `{tensor}` has shape {given:?}, the configuration asks for {expected:?}")]
    Misshapen {
        /// The file that holds it.
        file: String,
        /// The tensor's full name.
        tensor: String,
        /// The shape on disk.
        given: Shape,
        /// The shape that the network needs.
        expected: Shape,
    },
    /// The tokenizer's files do not make a tokenizer.
    #[error("`{file}` does not make a tokenizer: {reason}")]
    Tokenizer {
        /// Path inside the folder.
        file: String,
        /// The library's reason.
        reason: String,
    },
    /// The step cache does not fit the model.
    #[error("--cache-config: {0}")]
    Cache(#[from] cache::ConfigError),
    /// The device refused, most likely for want of memory.
    #[error("the device failed while loading `{file}`: {}", first_line(source))]
    Device {
        /// What was being loaded.
        file: String,
        /// The tensor library's reason.
        source: candle_core::Error,
    },
}

impl LoadError {
    /// The file that lacks, if that is all that is wrong: fetched, it may be a whole checkpoint.
    pub fn missing_file(&self) -> Option<String> {
        match self {
            LoadError::MissingFile { file, .. } | LoadError::MissingShard { shard: file, .. } => Some(file.clone()),
            LoadError::NotDiffusers { .. } => Some("model_index.json".into()),
            _ => None,
        }
    }

    /// Whether the device's memory was full.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self, LoadError::Device { source, .. } if crate::is_out_of_memory(source))
    }
}

/// Of an error that may bring a backtrace.
fn first_line(err: &candle_core::Error) -> String {
    err.to_string().lines().next().unwrap_or_default().into()
}

/// The subject's rest in the message about a key of a file.
fn at(key: &str) -> String {
    if [".", "?"].contains(&key) { " is".into() } else { format!(": `{key}` is") }
}
