//! Why a checkpoint could not be loaded: each message names the file and what to do.

use candle_core::Shape;

/// Why a checkpoint could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The folder is not there.
    #[error("no such folder: `{0}` (give a folder in the diffusers layout, or a Hub id such as Qwen/Qwen-Image)")]
    NoFolder(String),
    /// A file of the diffusers layout is not there.
    #[error("`{file}` is missing in `{folder}`: not a whole diffusers checkpoint")]
    MissingFile {
        /// Path inside the folder.
        file: String,
        /// The folder.
        folder: String,
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
    #[error("`{file}` is not understood: {source}")]
    Json {
        /// Path inside the folder.
        file: String,
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
    #[error("the device failed while loading `{file}`: {source}")]
    Device {
        /// What was being loaded.
        file: String,
        /// The tensor library's reason.
        source: candle_core::Error,
    },
}
