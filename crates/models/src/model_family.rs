//! Facts about a family that are known before anything is loaded.

use diffusion::{ImageSize, most_pixels};

use crate::checkpoint::Checkpoint;
use crate::error::LoadError;
use crate::options::{LoadOptions, Progress};
use crate::pipeline::AnyPipeline;
use crate::placement::ModelBytes;

/// A family of models, and how its checkpoints are loaded.
pub struct ModelFamily {
    /// The family's name.
    pub name: &'static str,
    /// The classes that a checkpoint's `model_index.json` may name.
    pub classes: &'static [&'static str],
    /// The classes whose text encoder sees pictures.
    pub(crate) seeing_classes: &'static [&'static str],
    /// Published checkpoints.
    pub models: &'static [PublishedModel],
    pub(crate) bytes: fn(&Checkpoint, &LoadOptions) -> Result<ModelBytes, LoadError>,
    pub(crate) load: fn(&Checkpoint, &LoadOptions, Progress<'_>) -> Result<AnyPipeline, LoadError>,
}

/// A published checkpoint, as its model card and its files describe it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PublishedModel {
    /// `owner/name` on the Hub.
    pub id: &'static str,
    /// The pipeline class.
    pub class: &'static str,
    /// The inputs that the model generates from.
    pub makes: Makes,
    /// Most input pictures of a request.
    pub max_images: usize,
    /// Default number of denoising steps.
    pub num_inference_steps: usize,
    /// Default guidance, in words.
    pub guidance: &'static str,
    /// The transformer's block lists, with the number of blocks in each.
    pub segments: &'static [(&'static str, usize)],
    /// Default width and height.
    pub size: (usize, usize),
    /// The licence's name.
    pub licence: &'static str,
    /// Bytes of the files that are loaded.
    pub disk_bytes: u64,
    /// Bytes of the weights in memory, in bf16.
    pub memory_bytes: u64,
}

impl PublishedModel {
    /// Returns the most pixels of one picture, which the operator may override.
    pub fn max_pixels(&self) -> usize {
        let (width, height) = self.size;
        most_pixels(ImageSize { width, height })
    }
}

/// The inputs that a model generates pictures from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Makes {
    /// Text.
    Text,
    /// Text and pictures.
    Edits,
    /// Text, with or without pictures.
    TextAndEdits,
}

impl Makes {
    /// Returns `"text to image"`, `"editing"` or both.
    pub fn name(self) -> &'static str {
        match self {
            Makes::Text => "text to image",
            Makes::Edits => "editing",
            Makes::TextAndEdits => "text to image, editing",
        }
    }
}

/// Asserts that the published facts agree with the loaded model's card.
#[cfg(test)]
pub(crate) fn assert_as_published(card: &diffusion::ModelCard, model: &PublishedModel) {
    let id = model.id;
    assert_eq!(card.default_num_inference_steps, model.num_inference_steps, "{id}");
    assert_eq!((card.default_size.width, card.default_size.height), model.size, "{id}");
    assert_eq!(card.max_pixels, model.max_pixels(), "{id}");
    assert_eq!(card.input_images.max_images, model.max_images, "{id}");
    assert_eq!(card.input_images.min_images > 0, model.makes == Makes::Edits, "{id}");
    assert_eq!(card.num_blocks, model.segments.iter().map(|(_, blocks)| *blocks).collect::<Vec<_>>(), "{id}");
    let draft = diffusion::RequestDraft { prompt: "a cat".into(), ..diffusion::RequestDraft::default() };
    let bare = diffusion::ModelCard { input_images: diffusion::InputImageBounds::NONE, ..card.clone() };
    let requests = draft.build(&bare, &diffusion::Limits::default(), || 0).unwrap();
    let guidance = match requests[0].params.guidance {
        diffusion::Guidance::None => "none (distilled)".into(),
        diffusion::Guidance::TrueCfg { scale } => format!("true CFG {scale}"),
        diffusion::Guidance::Cfg { scale } => format!("CFG {scale}"),
        diffusion::Guidance::Embedded { scale } => format!("embedded {scale}"),
    };
    assert_eq!(guidance, model.guidance, "{id}: a prompt alone");
}
