//! Checks before a checkpoint is loaded.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::checkpoint::Checkpoint;
use crate::error::LoadError;
use crate::families::sees_pictures;
use crate::layout::single_file;
use crate::tokenizer::Tokenizer;

/// Quantization entries in a component's `config.json`, by the names of diffusers and of transformers.
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

impl Checkpoint {
    /// Opens a folder after checking that every file that loading reads is there. Reads no weights.
    ///
    /// # Errors
    /// The folder has another layout, or a file is missing, incomplete, or holds weights in an unsupported format.
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

    /// Checks every file that loading reads, but only the headers of weight files. It takes seconds and saves loading
    /// half of a broken checkpoint.
    fn check(&self) -> Result<(), LoadError> {
        if sees_pictures(&self.class()?) {
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

    /// Refuses a component whose configuration declares quantized weights.
    fn check_quantization(&self, component: &str) -> Result<(), LoadError> {
        let file = format!("{component}/config.json");
        let config: Quantization = self.json(&file)?;
        let Some(quantization) = config.quantization_config.or(config.compression_config) else { return Ok(()) };
        let method = quantization.quant_method.or(quantization.quant_type);
        Err(LoadError::Quantized { file, method: method.unwrap_or_else(|| "quantization_config".into()) })
    }
}
