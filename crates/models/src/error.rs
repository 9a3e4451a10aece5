//! Why a checkpoint could not be loaded: each message names the file and what to do.

use candle_core::Shape;

/// Why a checkpoint could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The folder does not exist.
    #[error("no such folder: `{0}` (give a folder in the diffusers layout, or a Hub id such as Qwen/Qwen-Image)")]
    NoFolder(String),
    /// A file of the diffusers layout is missing.
    #[error("`{file}` is missing in `{folder}`: not a whole diffusers checkpoint. Download it again, or add the file")]
    MissingFile {
        /// Path inside the folder.
        file: String,
        /// The folder.
        folder: String,
    },
    /// The folder, file or repository is not a checkpoint in the diffusers layout.
    #[error("`{place}` is {what}: {hint}")]
    NotDiffusers {
        /// The folder, file or repository as given.
        place: String,
        /// The kind of folder or file that was found.
        what: String,
        /// What to give instead.
        hint: String,
    },
    /// An index names a missing shard.
    #[error("`{index}` names the shard `{shard}`, which is missing in `{folder}`. Download it again")]
    MissingShard {
        /// Path of the index inside the folder.
        index: String,
        /// Path of the shard inside the folder.
        shard: String,
        /// The folder.
        folder: String,
    },
    /// A component's weights have a format other than safetensors, or an unknown file name.
    #[error("`{file}`: {hint}")]
    OtherWeights {
        /// Path inside the folder.
        file: String,
        /// The format found, and what to do.
        hint: &'static str,
    },
    /// A Git LFS pointer whose file was not fetched yet.
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
        /// The component's configuration, or the weight file.
        file: String,
        /// The quantization method.
        method: String,
    },
    /// A tensor has an unsupported number format.
    #[error("`{file}`: tensor `{tensor}` is {dtype}. f32, f16 and bf16 are read: convert it")]
    NumberFormat {
        /// The file that holds the tensor.
        file: String,
        /// The tensor's full name.
        tensor: String,
        /// The tensor's format, as safetensors names it.
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
    /// A JSON file has an unexpected content.
    #[error("`{file}`{} not understood: {source}", at(.key))]
    Json {
        /// Path inside the folder.
        file: String,
        /// Path of the key; `.` or `?` stands for the whole file.
        key: String,
        /// Position and reason.
        source: serde_json::Error,
    },
    /// A safetensors file is damaged or only partly downloaded.
    #[error("`{file}` is damaged or incomplete ({reason}): download it again")]
    Damaged {
        /// Path inside the folder.
        file: String,
        /// The defect.
        reason: String,
    },
    /// latentd does not support the checkpoint's class.
    #[error("model_index.json names the class `{class}`; supported: {}", supported.join(", "))]
    UnsupportedClass {
        /// The class named by the checkpoint.
        class: String,
        /// The supported classes.
        supported: Vec<&'static str>,
    },
    /// A configuration value is not supported.
    #[error("`{file}`: `{key}` must {bound}. Given: {given}")]
    Config {
        /// Path inside the folder.
        file: String,
        /// The key.
        key: &'static str,
        /// The supported values.
        bound: String,
        /// The value in the file.
        given: String,
    },
    /// A tensor that the network needs is in none of the component's files.
    #[error("`{file}`: tensor `{tensor}` is missing")]
    MissingTensor {
        /// The component's file, or the index of a sharded component.
        file: String,
        /// The tensor's full name.
        tensor: String,
    },
    /// The weights hold more layers than the configuration names.
    #[error("`{file}`: `{list}` holds more than the {count} layers that the component's config.json names")]
    MoreLayers {
        /// The component's file, or the index of a sharded component.
        file: String,
        /// The list's full name.
        list: String,
        /// Number of layers in the configuration.
        count: usize,
    },
    /// A tensor's shape differs from the configuration.
    #[error("`{file}`: tensor `{tensor}` has shape {given:?}, the configuration asks for {expected:?}")]
    Misshapen {
        /// The file that holds the tensor.
        file: String,
        /// The tensor's full name.
        tensor: String,
        /// The shape on disk.
        given: Shape,
        /// The shape that the network needs.
        expected: Shape,
    },
    /// The tokenizer's files are not a valid tokenizer.
    #[error("`{file}` does not make a tokenizer: {reason}")]
    Tokenizer {
        /// Path inside the folder.
        file: String,
        /// The tokenizer library's reason.
        reason: String,
    },
    /// The step cache's configuration does not fit the model.
    #[error("--cache-config: {0}")]
    Cache(#[from] cache::ConfigError),
    /// The device failed, most likely for lack of memory.
    #[error("the device failed while loading `{file}`: {}", first_line(source))]
    Device {
        /// What was being loaded.
        file: String,
        /// The tensor library's reason.
        source: candle_core::Error,
    },
}

impl LoadError {
    /// Returns the missing file, if that is the only defect. Once fetched, the checkpoint may be complete.
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

/// First line of the error's message, which may include a backtrace.
fn first_line(err: &candle_core::Error) -> String {
    err.to_string().lines().next().unwrap_or_default().into()
}

/// Continues the sentence after the file's name with the key, if there is one.
fn at(key: &str) -> String {
    if [".", "?"].contains(&key) { " is".into() } else { format!(": `{key}` is") }
}
